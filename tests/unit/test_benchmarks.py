"""`make bench`: like stands beside like, and a target says what it divides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import host, peers, ready, tables, targets

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


def a_start(seconds: float, answer: str = "same", memory: int = 100) -> dict[str, Any]:
    """Of two phases, of which a hundredth of a second is not accounted for."""
    phases = [{"name": name, "seconds": (seconds - 0.01) / 2, "facts": {}} for name in ("launched", "server answers")]
    return {
        "ready_s": seconds,
        "unaccounted_s": 0.01,
        "phases": phases,
        "anonymous_bytes": memory,
        "answer": answer,
    }


def starts(answer: str = "same") -> dict[str, Any]:
    return {
        name: {
            "template": [a_start(each, answer) for each in (1.0, 3.0, 2.0)],
            "ordinary": [a_start(each) for each in (20.0, 30.0, 10.0)],
        }
        for name in ready.CASES
    }


def test_whole_starts_are_compared_by_their_medians() -> None:
    found = ready._figures(starts(), many_bytes=500)
    assert found["seconds"]["eager"] == {"template": 2.0, "ordinary": 20.0}
    assert set(found["speedup"].values()) == {10.0}
    assert found["phases"]["tp2"]["template"] == {"launched": 0.995, "server answers": 0.995}
    assert found["unaccounted_share"] == pytest.approx(0.01)
    assert found["memory_share"] == 0.5
    assert found["answers_equal"]
    assert not ready._figures(starts("another"), many_bytes=500)["answers_equal"]


def test_every_case_of_a_start_has_a_target() -> None:
    verdict = targets.judge({"ready": ready._figures(starts(), many_bytes=900)})["targets"]
    judged = {row["name"]: row for row in verdict if row["value"] is not None}
    for case in ready.CASES.values():
        (row,) = [row for name, row in judged.items() if f"ready, {case.words}:" in name]
        assert (row["value"], row["passed"], row["target"]) == (10.0, True, f">= {case.bound}x")
    (memory,) = [row for name, row in judged.items() if "memory of ten" in name]
    assert (memory["value"], memory["passed"]) == (0.9, False)


def test_sections_that_a_run_leaves_out_are_judged_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "overhead.json").write_text(json.dumps({"results": {"us_per_tensor": 1.5}}))
    kept = command._kept(tmp_path, {"ready": {}})
    assert kept == {"ready": {}, "overhead": {"us_per_tensor": 1.5}}
    assert command._kept(tmp_path, {"overhead": {"us_per_tensor": 9.0}}) == {"overhead": {"us_per_tensor": 9.0}}


def test_tables_of_whole_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_RESULTS", tmp_path)
    assert tables._ready() == tables._ready_phases() == tables._NOT_RUN
    assert tables._ready_picture() == ""
    records = starts()
    results = {**ready._figures(records, many_bytes=500), "rounds": 3, "records": records}
    text = json.dumps({"command": "python -m benchmarks", "date": "2026-11-27", "results": results})
    (tmp_path / "ready.json").write_text(text)
    (tmp_path / "ready.svg").touch()
    assert f"| {ready.CASES['large'].words} | 20 | 2 | 10.0x |" in tables._ready()
    assert "| 0.50 of it |" in tables._ready()
    rows = tables._ready_phases().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| launched", "| server answers"]
    assert rows[0].endswith("| 9.99 | 0.995 | 9.99 | 0.995 | 9.99 | 0.995 |")
    assert "benchmarks/results/ready.svg" in tables._ready_picture()
