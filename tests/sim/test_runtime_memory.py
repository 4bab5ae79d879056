"""Memory of simulated devices: caps, leaks, and uses of what was freed."""

import pytest

from .runtime import run

MEMORY_ALLOCATION, MEMORY_FREE, COPY_DATA = 207001, 207002, 507052


def test_memory_is_counted_by_device():
    said = run("""
set_device(1); a = malloc(1000); b = malloc(24)
set_device(4); c = malloc(1 << 20)
ok(acl.aclrtFree(a))
use = counters()
say([use["device_bytes"], use["device_peak_bytes"], use["host_bytes"]])
host = ctypes.c_void_p(); ok(acl.aclrtMallocHost(ctypes.byref(host), ctypes.c_size_t(77)))
say(counters()["host_bytes"])
ok(copy(host, b, 24)); ok(acl.aclrtFreeHost(host)); ok(acl.aclrtFree(b)); ok(acl.aclrtFree(c))
use = counters()
say([use["device_bytes"], use["host_bytes"], use["memory_errors"]])
""").said
    assert said[0] == [{"1": 24, "4": 1 << 20}, {"1": 1024, "4": 1 << 20}, 0]
    assert said[1] == 77
    assert said[2] == [
        {"1": 0, "4": 0},
        0,
        {"double_free": 0, "unknown_free": 0, "use_after_free": 0, "out_of_bounds": 0},
    ]


def test_a_device_has_no_more_than_its_memory():
    said = run(
        """
p = ctypes.c_void_p()
def allocate(size): return acl.aclrtMalloc(ctypes.byref(p), ctypes.c_size_t(size), 0)
set_device(0)
say([allocate(3 << 20), allocate((1 << 20) + 1), allocate(1 << 20), allocate(1), p.value])
set_device(1)
say([allocate(4 << 20), allocate((1 << 64) - 1), allocate(0)])
""",
        YR_FASTLOAD_SIM_DEVICE_MEMORY_MB=4,
    ).said
    assert said == [[0, MEMORY_ALLOCATION, 0, MEMORY_ALLOCATION, None], [0, MEMORY_ALLOCATION, 107000]]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("a = malloc(64); ok(acl.aclrtFree(a)); say(acl.aclrtFree(a))", "double_free", "double free of 64 bytes"),
        ("a = buffer(64); say(acl.aclrtFree(a))", "unknown_free", "free of what was never allocated"),
        ("a = malloc(64); say(acl.aclrtFreeHost(a))", "unknown_free", "free of what was never allocated"),
    ],
)
def test_wrong_frees_are_reported(script, error, message):
    result = run(f"set_device()\n{script}\nsay(counters()['memory_errors'])")
    assert result.said[0] == MEMORY_FREE
    assert result.said[1][error] == sum(result.said[1].values()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        ("copy(b, freed, 64)", COPY_DATA, "use after free: a copy of 64 bytes"),
        ("copy(freed, b, 64)", COPY_DATA, "use after free: a copy of 64 bytes"),
        ("copy_async(b, freed, 64, s) or synchronize(s)", COPY_DATA, "use after free: a copy"),
        (
            "launch([context(source=pointed(freed), to=b, size=64)], s, 1) or synchronize(s)",
            COPY_DATA,
            "use after free: a copy",
        ),
        ("copy(b, live, 65)", COPY_DATA, "out of bounds: a copy of 65 bytes"),
        ("copy(ctypes.c_void_p(live.value + 32), b, 33)", COPY_DATA, "out of bounds: a copy of 33 bytes"),
    ],
)
def test_uses_of_memory_that_is_not_there_fail_and_are_reported(use, error, message):
    result = run(f"""
set_device(); s = stream(); b = buffer(4096); live = malloc(64); freed = malloc(64); ok(acl.aclrtFree(freed))
pointed = lambda p: (ctypes.c_char * 64).from_address(p.value)
say({use})
errors = counters()["memory_errors"]
say(errors["use_after_free"] + errors["out_of_bounds"])
""")
    assert result.said == [error, 1]
    assert message in result.stderr


def test_freed_addresses_are_not_handed_out_again_soon():
    said = run("""
set_device()
seen = set()
for _ in range(200):
    p = malloc(4096); seen.add(p.value); ok(acl.aclrtFree(p))
say(len(seen))
""").said
    assert said == [200]


def test_freeing_memory_that_a_copy_uses_is_an_error_and_no_crash():
    result = run(
        """
set_device(); s = stream(); size = 64
a, b = malloc(size), buffer(size)
ok(copy_async(b, a, size, s)); ok(copy_async(a, b, size, s))
time.sleep(0.1)
ok(acl.aclrtFree(a))
say(synchronize(s))
say(counters()["memory_errors"]["use_after_free"])
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=300",
    )
    assert result.said == [COPY_DATA, 1]
    assert "use after free" in result.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_leaks_are_reported_at_the_end_if_wanted(wanted):
    result = run(
        "set_device(5); malloc(12345); ok(acl.aclrtFree(malloc(99)))", YR_FASTLOAD_SIM_REPORT_LEAKS=int(wanted)
    )
    assert ("leak: 12345 bytes" in result.stderr) == wanted
    assert ("of device 5" in result.stderr) == wanted
    assert "99 bytes" not in result.stderr


def test_memory_of_the_host_is_registered_once():
    said = run("""
set_device(); a = buffer(4096); p = ctypes.c_void_p()
register = lambda: acl.aclrtHostRegister(a, ctypes.c_uint64(4096), 0, ctypes.byref(p))
say([register(), p.value == ctypes.addressof(a), register(), acl.aclrtHostUnregister(a), acl.aclrtHostUnregister(a)])
""").said
    assert said == [[0, True, 107000, 0, 107000]]


VIRTUAL = """
page = 2 << 20; base = ctypes.c_void_p(); size = ctypes.c_size_t
def physical(bytes_=page, device=0):
    handle, kind = ctypes.c_void_p(), (ctypes.c_int32 * 8)(0, 0, 1, device, 1)
    return acl.aclrtMallocPhysical(ctypes.byref(handle), size(bytes_), kind, size(0)), handle
def at(pages): return ctypes.c_void_p(base.value + pages * page)
def mapped(place, handle): return acl.aclrtMapMem(place, size(page), size(0), handle, size(0))
set_device(); ok(acl.aclrtReserveMemAddress(ctypes.byref(base), size(4 * page), size(0), None, size(1)))
handles = [physical()[1] for _ in range(2)]
for number, handle in enumerate(handles): ok(mapped(at(number), handle))
"""


def test_memory_is_mapped_to_reserved_addresses_piece_by_piece():
    """As expandable segments have it: what lies across pieces is one range, and what is unmapped is nobody's."""
    said = run(
        VIRTUAL
        + """
across = ctypes.c_void_p(at(1).value - 100); out = buffer(200)
ok(copy(across, buffer(200, 7), 200)); ok(copy(out, across, 200)); say(out.raw == pattern(200, 7))
say(counters()["device_bytes"])
say([copy(at(2), out, 1), mapped(at(1), handles[0]), mapped(at(4), handles[0]), acl.aclrtFree(at(1)),
    acl.aclrtReleaseMemAddress(base)])
ok(acl.aclrtUnmapMem(at(1))); ok(acl.aclrtFreePhysical(handles[1])); say(counters()["device_bytes"])
say([copy(out, across, 200), copy(out, at(1), 1)])
result, again = physical(); ok(result); ok(mapped(at(1), again)); ok(copy(out, at(1), 200)); say(out.raw == bytes(200))
for number, handle in enumerate([handles[0], again]):
    ok(acl.aclrtUnmapMem(at(number))); ok(acl.aclrtFreePhysical(handle))
ok(acl.aclrtReleaseMemAddress(base)); say(counters()["device_bytes"])
"""
    ).said
    assert said[:2] == [True, {"0": 4 << 20}]
    assert said[2][1:] == [107000, 107000, MEMORY_FREE, 107000]
    assert said[3:] == [{"0": 2 << 20}, [COPY_DATA, COPY_DATA], True, {"0": 0}]


def test_physical_memory_counts_before_it_is_mapped():
    said = run(VIRTUAL + "say([physical()[0], physical(device=99)[0]])", YR_FASTLOAD_SIM_DEVICE_MEMORY_MB=4).said
    assert said == [[MEMORY_ALLOCATION, 107000]]
