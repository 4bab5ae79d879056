"""Whatever CUDA's driver refuses: a typed error with the driver's words, tensors as they were, and a way on.

vLLM reads from disk after any of them (tests/e2e); what is left of a loader then still loads into CPU memory.
"""

from __future__ import annotations

import pytest

from .runtime import run, start
from .test_cuda import PRELUDE
from .test_cuda_d2d import HERE, SOURCE

pytestmark = pytest.mark.worker

_UNKNOWN = "failed with CUDA error (4711)"
_LOAD = """
published = {"w": np.frombuffer(pattern(3 * MIB), "u1")}
first = loader(); first.publish(published, IDENTITY)
def tries(target, **settings):
    with loader(**settings) as reader:
        found = failure(reader.load, target, IDENTITY)
        intact = "w" not in target or not content(target["w"]).strip(b"\\0")
        again = {"w": np.zeros(3 * MIB, "u1")}
        return [found, intact, reader.load(again, IDENTITY).verified and bool((again["w"] == published["w"]).all())]
"""


@pytest.fixture
def script(worker, model):
    def go(text, **environment):
        return run(PRELUDE.format(model=model, worker=worker) + _LOAD + text, kind="cuda", **environment).said

    return go


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("pin:oom", "RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory; lower staging_bytes"),
        ("pin:code=4711", "DEVICE", _UNKNOWN),
        ("pin:code=999", "DEVICE", "failed with CUDA error (999)"),
    ],
)
def test_a_load_that_the_driver_refuses_writes_nothing(script, fault, code, message):
    found, intact, goes_on = script('say(tries({"w": Array(bytes(3 * MIB))}))', YR_FASTLOAD_SIM_FAULTS=fault)[0]
    assert found[0] == code
    assert message in found[1]
    assert [intact, goes_on] == [True, True]


def test_a_full_device_is_no_obstacle(script):
    """Nothing of its memory is needed."""
    said = script(
        """
target = {"w": Array(bytes(3 * MIB))}
with loader() as reader: reader.load(target, IDENTITY)
say(target["w"].bytes == published["w"].tobytes())
""",
        YR_FASTLOAD_SIM_FAULTS="malloc@2+:oom",
    )
    assert said == [True]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "init:fail",
            "cuInit failed with CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected; CUDA_VISIBLE",
        ),
        ("init:code=4711", "cuInit failed with CUDA error (4711)"),
        ("init:code=999", "cuInit failed with CUDA error (999)"),
    ],
)
def test_a_driver_that_does_not_begin(script, fault, message):
    """Its tensors cannot be there then; an object that says so is not believed."""
    found, intact, goes_on = script(
        """
class Absent:
    __cuda_array_interface__ = {"version": 3, "typestr": "|u1", "shape": (64,), "data": (1 << 40, False)}
say(tries({"x": Absent()}))
""",
        YR_FASTLOAD_SIM_FAULTS=fault,
    )[0]
    assert found[0] == "DEVICE"
    assert message in found[1]
    assert [intact, goes_on] == [True, True]


@pytest.mark.parametrize(
    ("offers", "fault", "message"),
    [
        ("d2d", None, None),
        ("d2d", "open:fail", "CUDA_ERROR_MAP_FAILED (205)"),
        ("d2d", "open:code=4711", _UNKNOWN),
        (
            "d2d",
            "peer:fail",
            "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED (217): peer access is not supported between these two devices",
        ),
        ("d2d+host", "peer:fail", None),
    ],
)
def test_from_one_device_to_another(worker, model, offers, fault, message):
    """With `host` offered too a load goes on by that; without, the error says what the driver said."""
    prelude = PRELUDE.format(model=model, worker=worker) + HERE
    reader = """
use(1)
class There:
    def __init__(self, size): self.array = Array(bytes(size), device=1)
    __cuda_array_interface__ = property(lambda self: self.array.__cuda_array_interface__)
told()
target = {f"w{i}": There(MIB + i) for i in range(4)}
with loader(hold=False) as second:
    say(loaded(second, target, deadline_s=10)[:2])
    say([target[f"w{i}"].array.bytes == pattern(MIB + i, 1 + i) for i in range(4)])
    say([any(target[f"w{i}"].array.bytes) for i in range(4)])
    say(sorted(second.stats()["devices"]))
"""
    environment = {} if fault is None else {"YR_FASTLOAD_SIM_FAULTS": fault}
    with (
        start(prelude + SOURCE.format(settings=f"publish_as={offers!r}"), kind="cuda") as first,
        start(prelude + reader, kind="cuda", **environment) as second,
    ):
        first.heard()
        second.tell(1)
        how, equal, written, devices = second.finish().said
        first.tell(1)
        first.finish()
    assert devices == ["simulated-cuda:1"]
    if fault is None or offers == "d2d+host":
        assert how == ["d2d" if fault is None else "host", True]
        assert equal == [True] * 4
    else:
        assert how[0] == "PARTIAL_TRANSFER"
        assert message in how[1]
        assert written == [False] * 4
