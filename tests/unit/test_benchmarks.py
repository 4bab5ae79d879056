"""`make bench`: like stands beside like, and a target says what it divides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import host, peers, tables

PAIRS = {  # of a ratio: what is above, and below
    "touched_speedup": ("safetensors, touched, warm", "pull"),
    "fresh_speedup": ("safetensors, warm", "pull, fresh memory"),
    "mapped_speedup": ("safetensors, mapped, warm", "pull, zero copy, layout only"),
    "mapped_read_speedup": ("safetensors, mapped, read, warm", "pull, zero copy"),
    "read_once_share": ("every byte read once, own threads", "pull, zero copy"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ratios_divide_what_ends_in_the_same_state(name: str) -> None:
    above, below = PAIRS[name]
    assert host._ratios({above: [3.0, 9.0, 6.0], below: [1.0, 3.0, 3.0]})[name] == 3.0


def test_the_quickest_rival_of_each_round_counts() -> None:
    samples = {"pull, fresh memory": [1.0, 1.0, 1.0]}
    samples |= {"safetensors, warm": [4.0, 2.0, 3.0], "torch.load(mmap=True), warm": [3.0, 5.0, 4.0]}
    assert host._ratios(samples)["best_warm_speedup"] == 3.0
    assert "best_cold_speedup" not in host._ratios(samples)


@pytest.mark.parametrize("peer", [peer for peer in peers.available() if peer.module in ("safetensors", "torch")])
def test_a_rival_gives_the_tensors_where_it_says(peer: peers.Peer, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    wanted = {"a": torch.arange(6, dtype=torch.bfloat16), "b": torch.ones(3, dtype=torch.bfloat16)}
    save_file(wanted, tmp_path / "model.safetensors")
    torch.save(wanted, tmp_path / peers.TORCH_FILE)
    target = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    got = peer.read(tmp_path, target)
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())
    assert all((got[name] is tensor) == (peer.destination == "touched") for name, tensor in target.items())
    assert peers.versions()["safetensors"]


def test_a_table_has_systems_by_where_their_tensors_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"median": 1.0, "min": 1.0, "max": 2.0}
    record: dict[str, Any] = {"tensors": 1, "bytes": 1 << 30, "chunks": 1, "rounds": 3}
    record["seconds"] = dict.fromkeys(("pull", "pull, fresh memory", "memcpy, fresh memory"), row)
    path = tmp_path / "host.json"
    monkeypatch.setattr(tables, "_RESULTS", tmp_path)
    path.write_text(json.dumps({"results": {"w": record}}))
    assert tables._host("w").count("| median s |") == 1  # of a run that did not say where
    record["destinations"] = {name: "fresh" if "fresh" in name else "touched" for name in record["seconds"]}
    path.write_text(json.dumps({"results": {"w": record}}))
    fresh, touched = (part for part in tables._host("w").split(":\n\n")[1:3])
    assert "| pull, fresh memory |" in fresh
    assert "| memcpy, fresh memory |" in fresh
    assert "| pull |" in touched
