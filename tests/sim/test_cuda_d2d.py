"""Weights from one process's GPU memory into another's (`d2d`), by the real worker, on the simulated driver."""

from __future__ import annotations

import uuid

import pytest

from .runtime import start
from .test_cuda import PRELUDE

pytestmark = pytest.mark.worker

# What each process begins with; `bulk` is freed with its last reference, as a framework's memory is.
HERE = """
from types import SimpleNamespace
from yr_fastload_native import _core
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.measuring.device_arrays import upload, allocate
def bulk(seed, count=4):
    return upload(CUDA.at(0), {f"w{i}": np.frombuffer(pattern(MIB + i, seed + i), "u1") for i in range(count)})
def equal(one, seed): return all((one[f"w{i}"].bytes() == np.frombuffer(pattern(MIB + i, seed + i), "u1")).all()
                                 for i in range(len(one)))
def loaded(reader, target, **settings):
    try: report = reader.load(target, IDENTITY, **settings)
    except fl.FastLoadError as error: return [error.code, str(error)]
    return [report.transport, report.verified, [[step["outcome"], step["why"]] for step in report.steps]]
def holds(): return sum(sim.counters()["device_bytes"].values())
"""
SOURCE = """
first = loader({settings}); weights = bulk(1); publication = first.publish(weights, IDENTITY); say(1); told()
"""
CLOSE = "del weights; publication.close(); del publication; first.close(); say([1, holds()])"
READER = """
told()
target = bulk(100); second = loader({settings})
"""
# Says once a copy is under way, and then how the load ended.
READING = """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(loaded(second, target, deadline_s=20))); thread.start()
while not sim.counters()["faults_hit"]: time.sleep(0.01)
say("reading"); thread.join(); say(found[0]); say(equal(target, 1)); say(time.monotonic())
"""


@pytest.fixture
def process(worker):
    """Starts a process with GPUs of its own that runs a script."""
    prelude = PRELUDE.format(model=uuid.uuid4().hex, worker=worker) + HERE

    def go(script, **environment):
        return start(prelude + script, kind="cuda", **environment)

    return go


def exchange(process, source, reader, *, source_settings="publish_as='d2d'", reader_settings="", **environment):
    """What a reader says while a source is there, and the source's own end."""
    with (
        process(SOURCE.format(settings=source_settings) + source) as first,
        process(READER.format(settings=reader_settings) + reader, **environment) as second,
    ):
        first.heard()
        second.tell(1)
        found = second.finish()
        first.tell(1)
        return found.said, first.finish()


@pytest.mark.parametrize("settings", ["", "chunk_bytes=1 << 20", "verify='layout'"])
def test_every_dtype_arrives_and_the_reader_becomes_a_source(process, settings):
    publish = """
first = loader(publish_as="d2d"); weights = every_kind(Array); first.publish(weights, IDENTITY); say(1); told()
first.close(); say(2); told()
"""
    load = f"""
told()
empty = zeros(Array); second = loader({settings}); report = second.load(empty, IDENTITY)
say([report.transport, report.verified, [name for name, each in every_kind(Array).items()
     if content(each) != content(empty[name])], sim.counters()["memory_errors"]["use_after_free"]])
told(); second.close(); say(3)
"""
    with process(publish) as first, process(load) as second, process(load) as third:
        first.heard()
        second.tell(1)
        assert second.heard() == ["d2d", settings != "verify='layout'", [], 0]
        first.tell(1)
        first.heard()
        third.tell(1)
        assert third.heard() == ["d2d", settings != "verify='layout'", [], 0]
        for each in (third, second, first):
            each.tell(1)
            each.finish()


def test_nothing_of_the_device_s_memory_is_taken_and_all_of_it_given_back(process):
    said, ended = exchange(
        process,
        CLOSE,
        """
before = sim.counters()["device_peak_bytes"]; say(loaded(second, target)[:2]); say(equal(target, 1))
say(sim.counters()["device_peak_bytes"] == before); second.close(); del target; say(holds())
""",
    )
    assert said == [["d2d", True], True, True, 0]
    assert ended.said[-1] == [1, 0]


@pytest.mark.parametrize("offers", ["d2d", "d2d+host"])
def test_a_source_that_was_killed(process, offers):
    reader = "say(loaded(second, target, deadline_s=8)); say([equal(target, 1), equal(target, 100)])"
    with (
        process(SOURCE.format(settings=f"publish_as={offers!r}")) as first,
        process(READER.format(settings="") + reader) as second,
    ):
        first.heard()
        first.kill()
        second.tell(1)
        said = second.finish().said
    if offers == "d2d":
        assert said[0][0] == "PARTIAL_TRANSFER"
        assert "cuIpcOpenMemHandle failed with CUDA_ERROR_MAP_FAILED" in said[0][1]
        assert said[1] == [False, True]
    else:
        assert said[0][:2] == ["host", True]
        assert said[0][2][0][0] == "partial"
        assert said[1] == [True, False]


def test_another_source_takes_over(process):
    with (
        process(SOURCE.format(settings="publish_as='d2d'")) as first,
        process(READER.format(settings="") + "say(loaded(second, target)[0]); told()") as second,
        process(READER.format(settings="") + "say(loaded(second, target)); say(equal(target, 1))") as third,
    ):
        first.heard()
        second.tell(1)
        assert second.heard() == "d2d"
        first.kill()
        third.tell(1)
        said = third.finish().said
        assert (said[0][0], said[1]) == ("d2d", True)
        second.tell(1)
        second.finish()


def test_a_source_that_leaves_waits_for_its_readers(process, tmp_path):
    control = tmp_path / "control"
    control.write_text("copy@5+:delay_ms=20")  # the first four filled the tensors; more than 60 follow
    with (
        process(SOURCE.format(settings="publish_as='d2d'") + CLOSE + "; say(time.monotonic())") as first,
        process(READER.format(settings="hold=False") + READING, YR_FASTLOAD_SIM_CONTROL=control) as second,
    ):
        first.heard()
        second.tell(1)
        second.heard()
        first.tell(1)
        gone, read = first.finish().said, second.finish().said
    assert read[1][:2] == ["d2d", True]
    assert read[2] is True
    assert gone[-1] > read[-1] - 0.5  # it did not leave long before


@pytest.mark.parametrize(
    ("settings", "fault", "codes"),
    [
        ("", "copy@20+:freeze", ("INTEGRITY", "NOT_PUBLISHED")),
        (", verify='layout'", "copy@6+:freeze", ("PARTIAL_TRANSFER", "NOT_PUBLISHED")),
    ],
)
def test_a_source_waits_for_no_reader_for_ever(process, tmp_path, settings, fault, codes):
    control = tmp_path / "control"
    control.write_text(fault)
    close = "begun = time.monotonic(); " + CLOSE + "; say(time.monotonic() - begun)"
    with (
        process(SOURCE.format(settings="publish_as='d2d'") + close) as first,
        process(READER.format(settings="hold=False" + settings) + READING, YR_FASTLOAD_SIM_CONTROL=control) as second,
    ):
        first.heard()
        second.tell(1)
        second.heard()
        first.tell(1)
        gone = first.finish()
        control.write_text("")
        read = second.finish().said
    assert gone.said[-2] == [1, 0]
    assert 1 < gone.said[-1] < 5
    assert "tensors are let go of while somebody reads them" in gone.stderr
    assert read[1][0] in codes


def test_a_worker_that_dies_and_comes_back(own_worker, start_again, tmp_path):
    """What a reader copies meanwhile is right or a typed error, in time; then both go on."""
    control = tmp_path / "control"
    control.write_text("copy@5+:delay_ms=20")  # the first four filled the tensors; more than 60 follow
    address = own_worker.address
    prelude = PRELUDE.format(model=uuid.uuid4().hex, worker=address) + HERE
    settings = "publish_as='d2d', rpc_timeout_s=1"
    again = """
publication.close(); told(); publication = first.publish(weights, {"again": 1}); say(publication.state); told()
"""
    reader = """
told(); say(second.load(target, {"again": 1}).transport); say(equal(target, 1)); second.close()
"""
    with (
        start(prelude + SOURCE.format(settings=settings) + again, kind="cuda") as first,
        start(
            prelude + READER.format(settings=settings + ", hold=False") + READING + reader,
            kind="cuda",
            YR_FASTLOAD_SIM_CONTROL=control,
        ) as second,
    ):
        first.heard()
        second.tell(1)
        assert second.heard() == "reading"
        own_worker.stop(force=True)
        outcome, right = second.heard(), second.heard()
        second.heard()
        assert outcome[0] in ("d2d", "UNAVAILABLE", "TRANSFER_TIMEOUT", "PARTIAL_TRANSFER", "NOT_PUBLISHED"), outcome
        assert right or outcome[0] != "d2d"
        control.write_text("")
        first.tell(1)
        start_again(address)
        first.tell(1)
        assert first.heard() == "live"
        second.tell(1)
        assert second.finish().said[-2:] == ["d2d", True]
        first.tell(1)
        first.finish()


@pytest.mark.parametrize(("offers", "transport"), [("d2d", "host"), ("d2d+host", "host")])
def test_memory_that_others_cannot_open_is_published_as_a_copy(process, offers, transport):
    publish = SOURCE.format(settings=f"publish_as={offers!r}")
    with (
        process(publish, YR_FASTLOAD_SIM_FAULTS="share:fail") as first,
        process(READER.format(settings="") + "say(loaded(second, target)[:2]); say(equal(target, 1))") as second,
    ):
        first.heard()
        second.tell(1)
        assert second.finish().said == [[transport, True], True]
        first.tell(1)
        assert "published without transport d2d, although that was asked for" in first.finish().stderr


def test_a_reader_whose_memory_others_cannot_open_is_no_source(process):
    reader = "say(loaded(second, target)[0]); say(second.publication(IDENTITY) is None)"
    said, _ = exchange(process, "", reader, YR_FASTLOAD_SIM_FAULTS="share:fail")
    assert said == ["d2d", True]


@pytest.mark.parametrize(
    ("settings", "offers", "answer"),
    [
        ("", "d2d+host", "host"),  # no process can open its own memory
        ("", "d2d", "NOT_PUBLISHED"),
    ],
)
def test_a_source_in_the_same_process(process, settings, offers, answer):
    script = f"""
weights, target = bulk(1), bulk(100)
with loader(publish_as={offers!r}) as first, loader({settings}) as second:
    first.publish(weights, IDENTITY); say(loaded(second, target)[0]); say(equal(target, 1))
"""
    with process(script) as one:
        said = one.finish().said
    assert said == [answer, answer == "host"]


def test_what_is_verified_before_the_first_byte_goes_by_host(process):
    reader = "say(loaded(second, target)); say(equal(target, 1))"
    said, _ = exchange(process, "", reader, source_settings="publish_as='d2d+host'", reader_settings="staging='always'")
    assert said[0][:2] == ["host", True]
    assert "staging='always' is set" in said[0][2][0][1]
    assert said[1] is True


def test_by_default_a_copy_is_published(process):
    said, _ = exchange(process, "", "say(loaded(second, target)[0])", source_settings="")
    assert said == ["host"]


@pytest.mark.parametrize(("fault", "code"), [("copy@7:corrupt=1", "INTEGRITY"), ("open:fail", "PARTIAL_TRANSFER")])
def test_faults_of_the_only_source(process, fault, code):
    said, _ = exchange(process, "", "say(loaded(second, target)[0])", YR_FASTLOAD_SIM_FAULTS=fault)
    assert said == [code]


def test_bytes_that_changed_are_found_out(process):
    change = "weights['w2'].write(np.zeros(MIB + 2, 'u1')); say(2); told()"
    with (
        process(SOURCE.format(settings="publish_as='d2d'") + change) as first,
        process(READER.format(settings="") + "say(loaded(second, target)[0])") as second,
    ):
        first.heard()
        first.tell(1)
        first.heard()
        second.tell(1)
        assert second.finish().said == ["INTEGRITY"]
        first.tell(1)
        first.finish()


def test_readers_at_the_same_time(process):
    reader = READER.format(settings="hold=False") + "say(loaded(second, target)[:2]); say(equal(target, 1))"
    with process(SOURCE.format(settings="publish_as='d2d'")) as first:
        first.heard()
        with process(reader) as one, process(reader) as two, process(reader) as three:
            for each in (one, two, three):
                each.tell(1)
            for each in (one, two, three):
                assert each.finish().said == [["d2d", True], True]
        first.tell(1)
        first.finish()
