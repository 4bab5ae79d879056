"""Processes with vLLM, by the names of what they do."""

from __future__ import annotations

from tests.e2e import forked, in_turn, load_only

from yr_fastload_native.measuring.child_process import main
from yr_fastload_native.measuring.vllm_process import instance

if __name__ == "__main__":
    main({"instance": instance, "forked": forked.instance_of_forks, "rank": load_only.rank, "loads": in_turn.loads})
