"""``python -m yr_fastload_native`` is ``yr-fastload``."""

from yr_fastload_native.cli import main

main(prog_name="yr-fastload")
