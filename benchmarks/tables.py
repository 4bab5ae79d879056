"""Tables of committed results, in README.md and pages of docs between marks: ``python -m benchmarks.tables``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.ready import CASES
from yr_fastload_native.vllm.phases import PHASES

__all__ = ["main"]

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
_PAGES = (
    _ROOT / "README.md",
    _ROOT / "README.zh.md",
    *(_ROOT / "docs" / f"{name}.md" for name in ("cluster", "cuda", "performance")),
)
_BLOCK = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_GIB = 1 << 30
_QWEN = "qwen2.5-7b"
_HOSTS_TARGETS = {
    "pull / stream, 1 Gbit/s": ">= 0.9",
    "pull / stream, unthrottled": ">= 0.7",
    "second reader of a host / reader on the publisher's": ">= 0.8",
    "slowest of three hosts at once / one alone, seconds": "<= 1.5",
}
_NOT_RUN = "Not measured yet.\n"
_DESTINATIONS = {
    "fresh": "Into memory of their own that is fresh to the process, as a new instance has",
    "touched": "Into memory that the process has written to before",
    "mapped": "Without memory of their own, and nothing read",
    "mapped, read": "Without memory of their own, every page touched or every byte read",
    "none": "The files read once and thrown away",
}


def _read(section: str) -> dict[str, Any]:
    return dict(json.loads((_RESULTS / f"{section}.json").read_text()))


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _targets() -> str:
    rows = []
    for target in _read("targets")["targets"]:
        if target["value"] is not None:
            reached = "yes" if target["passed"] else "no"
            rows.append((target["name"], f"{target['value']:.3g}", target["target"], reached))
    return _table(("", "measured", "target", "reached"), rows)


def _machine() -> str:
    record = _read("host")
    machine, versions = record["machine"], record["machine"]["versions"]
    versions = {**versions, **record.get("rivals", {})}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "yr-fastload-native")
    return (
        f"`{record['command']}` on {record['date']}: {machine['cores']} cores, {machine['architecture']}, Linux "
        f"{machine['kernel']}, Python {machine['python']}, {named}.\n"
    )


def _host(workload: str) -> str:
    record = _read("host")["results"][workload]
    size = record["bytes"] / _GIB
    seconds: dict[str, Any] = record["seconds"]
    destinations: dict[str, str] = record.get("destinations", {})
    about = f"{record['tensors']} tensors, {size:.2f} GiB, {record['chunks']} chunks, {record['rounds']} rounds"
    if not destinations:
        return f"{about}:\n\n{_systems(seconds, size)}"
    groups = [
        f"{words}:\n\n{_systems({name: row for name, row in seconds.items() if destinations[name] == kind}, size)}"
        for kind, words in _DESTINATIONS.items()
        if kind in destinations.values()
    ]
    return f"{about}.\n\n" + "\n".join(groups)


def _systems(seconds: dict[str, Any], size: float) -> str:
    rows = [
        (
            name,
            _seconds(row["median"]),
            f"{_seconds(row['min'])} to {_seconds(row['max'])}",
            f"{size / row['median']:.2f}",
        )
        for name, row in sorted(seconds.items(), key=lambda row: float(row[1]["median"]))
    ]
    return _table(("", "median s", "least to most", "GiB/s"), rows)


def _stages() -> str:
    record = _read("host")["results"][_QWEN]
    rows = [
        (name, row["stage"], *(f"{row[key] * 1e3:.1f}" for key in ("seconds", "begin_s", "end_s")), row["threads"])
        for name, stages in record["breakdown"].items()
        for row in stages
    ]
    return _table(("", "stage", "ms, threads summed", "from ms", "to ms", "threads"), rows)


def _device() -> str:
    rows = []
    for name, record in _read("device")["results"].items():
        if "raw_share" not in record:
            continue
        has_baseline = "baseline" in record
        against = [f"{record[f'speedup_{what}']:.1f}x" if has_baseline else "" for what in ("load", "publish")]
        figures = [_seconds(record[key]) for key in ("load_s", "raw_copy_s", "publish_s")]
        rows.append(
            (name, record["tensors"], f"{record['bytes'] / _GIB:.2f}", *figures, f"{record['raw_share']:.2f}", *against)
        )
    headings = ("", "tensors", "GiB", "load s", "raw copy s", "publish s", "raw copy / load", "load", "publish")
    return _table(headings, rows)


def _engine() -> str:
    record = _read("engine")["results"]
    rows: list[tuple[object, ...]] = []
    for name, seconds in record["formats"].items():
        own = "vLLM's own loading" if name == "auto" else f"vLLM's `{name}`"
        for key, state in (("cold_s", "page cache dropped"), ("warm_s", "page cache warm")):
            if key in seconds:
                rows.append((f"{own}, {state}", _seconds(seconds[key]), ""))
        if "error" in seconds:
            rows.append((f"{own}, cannot load here: {seconds['error']}", "", ""))
    pulls = (("copied", "pull, every byte verified"), ("aliased", "pull, zero copy, every byte verified"))
    rows += [
        (name, _seconds(record["pulls"][how]["pull_s"]), f"{record[how]['warm_speedup']:.1f}x") for how, name in pulls
    ]
    again = _table(("one process, over and over", "median s", "quickest, warm / pull"), rows)
    fresh = [("vLLM's own loading, page cache dropped", _seconds(record["cold_s"]), "")] + [
        (name, _seconds(record[how]["pull_s"]), f"{record[how]['speedup']:.1f}x") for how, name in pulls
    ]
    about = f"vLLM {record['vllm']}, a qwen2 of {record['bytes'] / _GIB:.2f} GiB, {record['rounds']} rounds:\n\n"
    return about + _table(("a new instance each time", "median s", "disk / pull"), fresh) + "\n" + again


def _ready() -> str:
    if not (_RESULTS / "ready.json").exists():
        return _NOT_RUN
    record = _read("ready")
    results, seconds = record["results"], record["results"]["seconds"]
    ordinary = max(len(ways["ordinary"]) for ways in results["records"].values())
    about = (
        f"`{record['command']}` on {record['date']}: seconds from launch to ready, medians of {results['rounds']} "
        f"starts from a template, and of {ordinary} ordinary ones:\n\n"
    )
    rows: list[tuple[object, ...]] = [
        (CASES[name].words, _seconds(ways["ordinary"]), _seconds(ways["template"]), f"{results['speedup'][name]:.1f}x")
        for name, ways in seconds.items()
    ]
    memory = results["memory"]
    rows.append(
        (
            "memory of ten, GiB",
            *(f"{memory[way] / _GIB:.2f}" for way in ("ordinary", "template")),
            f"{results['memory_share']:.2f} of it",
        )
    )
    return about + _table(("", "ordinary", "from a template", ""), rows)


def _ready_picture() -> str:
    if not (_RESULTS / "ready.svg").exists():
        return ""
    words = "A first instance and one more, phase by phase, from launch to ready"
    return f"![{words}](benchmarks/results/ready.svg)\n"


def _ready_phases() -> str:
    if not (_RESULTS / "ready.json").exists():
        return _NOT_RUN
    found = _read("ready")["results"]["phases"]
    ways = [(name, way) for name in ("compiled", "large", "eager") for way in ("ordinary", "template")]
    names = dict.fromkeys(phase for name, way in ways for phase in found[name][way])
    order = [name for name in PHASES if name in names]
    rows = [
        (phase, *(_seconds(found[name][way][phase]) if phase in found[name][way] else "" for name, way in ways))
        for phase in order
    ]
    return _table(("ends with", *(f"{name}, {way}" for name, way in ways)), rows)


def _scaling() -> str:
    record = _read("scaling")["results"]
    readers = _table(
        ("readers together, d2d", "the publisher sends, models", "slowest s"),
        [(r["readers"], f"{r['publisher_sent_ratio']:.2f}", _seconds(r["slowest_load_s"])) for r in record["readers"]],
    )
    sizes = _table(
        ("GiB", "host s", "memcpy s", "memcpy / host", "d2d s", "raw copy s", "raw copy / d2d", "d2d publish s"),
        [
            (
                f"{h['gib']:.2f}",
                *(_seconds(h[key]["median"]) for key in ("seconds", "memcpy_s")),
                f"{h['memcpy_share']:.2f}",
                *(_seconds(d[key]) for key in ("load_s", "raw_copy_s")),
                f"{d['raw_share']:.2f}",
                _seconds(d["publish_s"]),
            )
            for h, d in zip(record["host_size"], record["d2d_size"], strict=True)
        ],
    )
    tensors = _table(
        ("tensors of 64 bytes, host", "pull, us a tensor", "layout, manifest, finish"),
        [(t["tensors"], f"{t['us']['pull']:.2f}", f"{t['us_per_tensor']:.2f}") for t in record["tensors"]],
    )
    chunks = _table(
        ("chunk, MiB", "host s", "to the best", "d2d s"),
        [
            (h["chunk_bytes"] >> 20, _seconds(h["seconds"]["median"]), f"{h['to_best']:.2f}", _seconds(d["load_s"]))
            for h, d in zip(record["host_chunk"], record["d2d_chunk"], strict=True)
        ],
    )
    return "\n".join((readers, sizes, tensors, chunks))


def _cuda_d2d(found: dict[str, Any]) -> tuple[str, list[tuple[str, float, float, str, bool]]]:
    """The table of `d2d` between two processes on one GPU, and its targets; nothing where it was not measured."""
    if "share_with_digest" not in found:
        return "", []
    verified, plain = found["digests"], found["no digests"]
    rows = [
        ("a copy of all bytes in one piece on the GPU", found["one_piece_s"]),
        ("a copy of each tensor there", found["each_tensor_s"]),
        ("moving the bytes, with digests", verified["transfer_s"]),
        ("moving the bytes, without", plain["transfer_s"]),
        ("finding the source and opening its memory", verified["stages"]["setup"]),
        ("pull, verified", verified["pull_s"]),
        ("pull, not verified", plain["pull_s"]),
        ("publish by reference", found["publish_s"]),
        ("the same until digests are stored", found["settled_s"]),
    ]
    table = _table(
        (f"`d2d`, two processes, one GPU: {found['tensors']} tensors, {found['bytes'] / _GIB:.1f} GiB", "ms"),
        [(name, f"{1e3 * value:.1f}") for name, value in rows],
    )
    return table, [
        ("d2d, moving the bytes: one piece / with digests", found["share_with_digest"], 0.7, "", False),
        ("d2d, moving the bytes: one piece / without", found["share_without_digest"], 0.9, "", False),
        ("d2d, whole pull: one piece / with digests", found["pull_share_with_digest"], 0.7, "", False),
        ("d2d, digests' share of moving the bytes, %", 100 * found["digest_share"], 10, "", True),
        ("d2d, digests' share of a pull, %", 100 * found["pull_digest_share"], 10, "", True),
    ]


def _from_pool(found: dict[str, Any]) -> list[tuple[str, float]]:
    if not found:
        return []
    return [
        ('pull, verified, from shared memory that is locked (`pin="pool"`)', found["pull_s"]),
        ("locking it, behind the first pull", found["locking_s"]),
    ]


def _cuda() -> str:
    record = _read("cuda")
    between, more_targets = _cuda_d2d(record["figures"].get("d2d", {}))
    machine, large, small = record["machine"], record["figures"]["large"], record["figures"]["small"]
    about = (
        f"`make gpu-check` on {record['date']}: one {record['card']}, {machine['cores']} cores, driver for CUDA "
        f"{record['driver'] // 1000}.{record['driver'] % 1000 // 10}, torch {record['torch']}, Linux "
        f"{machine['kernel']}. {len(record['checks'])} checks, "
        f"{sum(outcome == 'passed' for outcome in record['checks'].values())} passed. "
        f"{large['tensors']} tensors, {large['bytes'] / _GIB:.1f} GiB, medians of {len(large['rounds']['pull'])}:\n\n"
    )
    rows = [
        ("page-locked memory to the GPU in one piece", large["medians"]["one_piece"]),
        ("pull, verified", large["medians"]["pull"]),
        ("pull, not verified", large["medians"]["pull_without_digest"]),
        ("a process's first pull, which makes its page-locked memory", large["first_pull_s"]),
        *((f"pull by {threads} threads", seconds) for threads, seconds in large["pull_s_by_threads"].items()),
        *_from_pool(large.get("from_pool", {})),
        ('`safetensors.torch.load_file(device="cuda")`, page cache warm', large["safetensors"]["warm_s"]),
        ("publish, into memory of the worker that nobody has used", large["publish_s"]),
    ]
    big = _table(
        ("", "s", "GB/s"), [(name, _seconds(value), f"{large['bytes'] / 1e9 / value:.1f}") for name, value in rows]
    )
    medians = small["medians"]
    little = _table(
        (f"{small['tensors']} tensors of {small['bytes'] // small['tensors']} bytes", "ms"),
        [
            ("`tensor.copy_` one by one from page-locked memory", f"{1e3 * medians['one_by_one']:.1f}"),
            ("the same with `non_blocking`", f"{1e3 * medians['one_by_one_not_waiting']:.1f}"),
            ("pull", f"{1e3 * medians['pull']:.1f}"),
            ("of that, moving the bytes", f"{1e3 * medians['transfer']:.1f}"),
        ],
    )
    targets = _table(
        ("", "measured", "target", "reached"),
        [
            (name, f"{value:.3g}", f"{'<=' if most else '>='} {bound:g}{unit}", "yes" if good else "no")
            for name, value, bound, unit, most in (
                ("one piece / pull", large["share_of_one_piece"], 0.85, "", False),
                ("10,000 small tensors: one by one / pull", small["over_one_by_one"], 20, "x", False),
                (
                    "10,000 small tensors: one by one / moving the bytes",
                    small["transfer_over_one_by_one"],
                    20,
                    "x",
                    False,
                ),
                ("safetensors / pull", large["over_safetensors"], 4, "x", False),
                ("extra device memory, MiB", large["extra_device_bytes"] / (1 << 20), 64, "", True),
                *more_targets,
            )
            for good in [value <= bound if most else value >= bound]
        ],
    )
    return "\n".join(filter(None, (about + big, little, between, targets)))


def _hosts() -> str:
    record = _read("hosts")
    found, machine = record["results"], record["machine"]
    memory = {"fresh memory": "", "pool populated": ", pool populated", "memory used before": ", memory used before"}
    rows = [
        (name, *(f"{found[name + suffix]:.2f}" for suffix in memory.values()), target)
        for name, target in _HOSTS_TARGETS.items()
    ]
    return _table(("", *memory, "target"), rows) + (
        f"\n`{record['command']}` on {record['date']}: medians, {found['size_mb']} MiB, beside one stream of "
        f"{found['stream']} in the same minute, {machine['cores']} cores for all hosts.\n"
    )


_BLOCKS: dict[str, Callable[[], str]] = {
    "targets": _targets,
    "machine": _machine,
    "host": lambda: _host(_QWEN),
    "host-experts": lambda: _host("qwen3-30b-a3b"),
    "host-huge": lambda: _host("huge"),
    "host-tiny": lambda: _host("tiny"),
    "stages": _stages,
    "device": _device,
    "engine": _engine,
    "ready": _ready,
    "ready-phases": _ready_phases,
    "ready-picture": _ready_picture,
    "scaling": _scaling,
    "cuda": _cuda,
    "hosts": _hosts,
}


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with ``--check`` say whether they are up to date."""
    stale = 0
    for page in _PAGES:
        before = page.read_text()
        after = _BLOCK.sub(lambda found: f"{found[1]}{_BLOCKS[found[2]]()}{found[3]}", before)
        if after == before:
            continue
        if arguments == ["--check"]:
            sys.stderr.write(f"{page.name} does not say what benchmarks/results say; run `make docs`\n")
            stale = 1
        else:
            page.write_text(after)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
