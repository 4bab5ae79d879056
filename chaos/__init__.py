"""The fault campaign: rounds of publishing and loading while something goes wrong. ``python -m chaos``, `make chaos`.

A round (`schedule`) has publishers and readers (`processes`, `node`), an openYuanrong worker (`workers`) and a fault
(`faults`). `scenario` runs it, `verdict` says whether each call ended as it may, `leak_checker` and `key_checker` look
for what it leaves behind, and `tally` counts.
"""
