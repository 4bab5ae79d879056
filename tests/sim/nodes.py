"""Processes with simulated devices that publish and load: what the tests of `d2d` and `staged` are made of.

Their tensors are in opaque device memory, as on real devices. Tests of what only torch's tensors do (they are read
straight into, are given other memory, count writes) set `STAND_INS`: torch's CPU tensors count as the device's then.
Torch is imported once, by a process that they are forked from.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil

from yr_fastload_native.measuring.child_process import Process, serve
from yr_fastload_native.measuring.fork_server import ForkServer

ANSWER_S = 150
PATIENT_S = 30  # with a source that a busy machine keeps from sending; a load's own deadline is what ends a wait then
LEASE_S = 60  # outlives a machine that stands still for a while
# Whoever was forked may wait for ever for the allocator of AddressSanitizer.
_FORKS = "san" not in os.environ.get("LD_PRELOAD", "")
_servers = {}  # by kind of devices, and what else they have imported
_AHEAD = ("torch", "attrs", "ml_dtypes", "msgspec", "psutil")


STAND_INS = {"YR_FASTLOAD_SIM_OPAQUE": "0"}


def memory_of(tensor):
    """Its bytes, in the order in which they lie in memory."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        return tensor.bytes()
    start = tensor.storage_offset() * tensor.element_size()
    return flat(tensor)[start : start + tensor.nbytes].cpu().numpy()


def flat(tensor):
    """All bytes of its storage: another tensor, which counts writes for itself."""
    import torch

    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def same_bytes(one, other):
    """Of tensors of the same layout."""
    return bool((memory_of(one) == memory_of(other)).all())


def on_device(tensors, index=None):
    """Copies in the memory of a device, by default the thread's; what shares memory does so there."""
    import ml_dtypes
    import numpy as np

    from yr_fastload_native import _core, sim
    from yr_fastload_native.devices.cuda import CUDA
    from yr_fastload_native.devices.npu import NPU
    from yr_fastload_native.measuring.device_arrays import DeviceArray

    kind = CUDA if sim.active("cuda") else NPU
    device, blocks, made = kind.at(max(0, kind.current()) if index is None else index), {}, {}
    native = kind.open_device(device.index)
    for name, value in tensors.items():
        storage = value.untyped_storage()
        if storage.data_ptr() not in blocks:
            block = blocks[storage.data_ptr()] = _core.DeviceMemory(native, storage.nbytes() + 1)
            block.write(0, flat(value).numpy(), deadline_s=60)
        name_of = str(value.dtype).removeprefix("torch.")
        dtype = np.dtype(getattr(ml_dtypes, name_of, name_of))
        offset = value.storage_offset() * value.element_size()
        made[name] = DeviceArray(device, blocks[storage.data_ptr()], offset, dtype, tuple(value.shape), value.stride())
    return made


def on_npu(tensors):
    """As `on_device`, in tensors of torch_npu."""
    import torch

    storages, made = {}, {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        if place not in storages:
            storages[place] = flat(value).to("npu").untyped_storage()
        made[name] = torch.empty(0, dtype=value.dtype, device="npu").set_(
            storages[place], value.storage_offset(), value.shape, value.stride()
        )
    return made


def placed(tensors, index=None):
    """The same bytes where this process's device has them, or where the one of this number has."""
    from yr_fastload_native import sim

    if "torch_npu" in sys.modules:
        return on_npu(tensors)
    return on_device(tensors, index) if sim.opaque() else tensors


class Node:
    """A process; `call(name, ...)` runs a function of `Commands` in it."""

    def __init__(self, worker, directory, name, device=0, kind="ascend", **environment):
        self.name = name
        self.control = Path(directory) / f"{name}.control"
        self.control.write_text("")
        settings = {
            "YR_FASTLOAD_SIM_OPAQUE": "1",
            "YR_FASTLOAD_SIM_CONTROL": str(self.control),
            "NODE_WORKER": worker,
            "NODE_DEVICE": str(device),
            **environment,
        }
        self.process = Process("test", "nodes", name, None, simulated(kind) | settings, server=_server(kind, settings))

    def start(self, name, **arguments):
        self._what, self._asked = name, time.monotonic()
        self.process.start(name, **arguments)

    def finish(self, timeout_s=ANSWER_S):
        answer = self.process.finish(timeout_s)
        took_s = time.monotonic() - self._asked
        sys.stdout.write(f"{self.name}: {self._what} {took_s:.1f} s {answer}\n")  # shown where a test fails
        return answer

    def call(self, name, **arguments):
        self.start(name, **arguments)
        return self.finish()

    def faults(self, *lines):
        temporary = self.control.with_suffix(".new")
        temporary.write_text("\n".join(lines))
        temporary.rename(self.control)
        time.sleep(0.05)

    def kill(self, number=signal.SIGKILL):
        """Send a signal, unless it has ended."""
        self.process.signal(number)

    def close(self):
        self.process.kill()
        self.process.close()


def overwrite(tensors):
    """Behind the back of torch and the loader."""
    import numpy as np
    import torch

    for value in tensors.values():
        if isinstance(value, torch.Tensor):
            flat(value).copy_(torch.full_like(flat(value).cpu(), 0x5A))
        else:
            value.memory.write(0, np.full(value.memory.bytes, 0x5A, np.uint8), deadline_s=60)


def simulated(kind="ascend"):
    """The environment with simulated devices, and without what is set for this process."""
    from yr_fastload_native import sim

    base = {key: value for key, value in os.environ.items() if not key.startswith(("YR_FASTLOAD_", "HCCL_"))}
    return sim.environment(base, kind=kind)


def _server(kind, settings):
    """What a process with these settings is forked from; None for those that may not be."""
    # torch_npu reads settings of its own when it is imported.
    npu = {key: value for key, value in settings.items() if key == "NODE_TORCH_NPU" or key.startswith("PYTORCH_")}
    key = (kind, *npu.items())
    if _FORKS and key not in _servers:
        _servers[key] = ForkServer(
            [*_AHEAD, *(["torch_npu_path"] if "NODE_TORCH_NPU" in npu else [])], simulated(kind) | npu
        )
    return _servers.get(key)


def close_server():
    while _servers:
        _servers.popitem()[1].close()


def set_device(index):
    """Of this thread, as `torch.npu.set_device` does; loaders take it. On a GPU they take that of the tensors."""
    from yr_fastload_native import sim

    if sim.active("cuda"):
        return
    ctypes.CDLL("libascendcl.so").aclrtSetDevice(index)


def DTYPES(torch):  # noqa: N802
    names = "uint8 int8 int16 int32 int64 bool float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2 complex64"
    return [getattr(torch, name) for name in names.split()]


class Commands:
    def __init__(self):
        import yr_fastload_native as fl

        self.fl = fl
        self.loaders = []
        self.publications = {}
        self.target = {}
        self.held = {}
        self.pending = []  # what is written later, until then

    def _loader(self, settings):
        from yr_fastload_native import sim

        asked = {"publish_as": "d2d"} if sim.active("cuda") else {}  # on an NPU that is the default
        settings = {"source_stall_s": PATIENT_S, "lease_s": LEASE_S, **asked, **settings}
        loader = self.fl.FastLoader(self.fl.Config(worker=os.environ["NODE_WORKER"], **settings))
        self.loaders.append(loader)
        return loader

    @staticmethod
    def weights(seed, count, size):
        import torch

        if not count:
            return Commands.zoo(seed)
        made = {}
        for index in range(count):
            generator = torch.Generator().manual_seed(1000 * seed + index)
            made[f"w{index}"] = torch.randint(0, 256, (size + index,), dtype=torch.uint8, generator=generator)
        return made

    @staticmethod
    def zoo(seed):
        """One tensor of every kind: all dtypes, scalars, empty ones, other orders of dimensions, views, tied ones."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def random(*shape, dtype=torch.uint8):
            item = torch.empty(0, dtype=dtype).element_size()
            bytes_ = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, item), generator=generator)
            made = bytes_.to(torch.uint8).view(dtype).squeeze(-1)
            return made.nan_to_num(0.0) if dtype in (torch.float16, torch.float32, torch.float64) else made

        made = {str(dtype): random(5, 7, dtype=dtype) for dtype in DTYPES(torch)}
        made["scalar"] = random(dtype=torch.float32)
        made["empty"] = random(0, 3)
        made["transposed"] = random(300, 200, dtype=torch.bfloat16).t()
        made["channels_last"] = random(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        base = random(1 << 20)
        made["base"], made["view"], made["tied"] = base, base[1 << 10 : 1 << 12], base
        made["large"] = random((5 << 20) + 3)
        return made

    def publish(self, model, seed=1, count=12, size=1 << 20, settings=None, inference=False, wait_s=30):
        import torch

        with torch.inference_mode(inference):
            self.source = placed(self.weights(seed, count, size))
        publication = self._loader(settings or {}).publish(self.source, {"model": model})
        self.publications[model] = publication
        return {"settled": publication.wait_settled(wait_s), "chunks": publication.chunks, "state": publication.state}

    def frame_work(self, pattern):
        """Have torch_npu's stream, or one like it, write these bytes to all tensors after this has returned."""
        import torch

        if "torch_npu" in sys.modules:
            written = {name: torch.full_like(value.cpu(), pattern).to("npu") for name, value in self.held.items()}
            for name, value in self.held.items():
                value.copy_(written[name])
            return

        acl = ctypes.CDLL("libascendcl.so")
        if not hasattr(torch, "npu"):
            handle = ctypes.c_void_p()
            assert acl.aclrtCreateStreamWithConfig(ctypes.byref(handle), 0, 0) == 0
            stream = SimpleNamespace(npu_stream=handle.value)
            torch.npu = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda index: stream)
        handle = ctypes.c_void_p(torch.npu.current_stream(0).npu_stream)
        for value in self.held.values():
            written = ctypes.create_string_buffer(bytes([pattern]) * value.nbytes, value.nbytes)
            self.pending.append(written)
            size = ctypes.c_size_t(value.nbytes)
            assert acl.aclrtMemcpyAsync(ctypes.c_void_p(value.address), size, written, size, 1, handle) == 0

    def publish_unfinished(self, model, pattern, settings):
        """What a framework still writes when it is published."""
        self.held = placed(self.weights(1, 3, 1 << 20))
        loader = self._loader(settings)
        self.frame_work(pattern)
        self.publications[model] = loader.publish(self.held, {"model": model})
        return {"state": self.publications[model].state}

    def load_over_unfinished(self, model, pattern, settings, lag_s):
        """Into tensors that a framework still writes to: which of them have these bytes once it has ended."""
        self.held = placed(self.weights(2, 3, 1 << 20))
        loader = self._loader({"hold": False, **settings})
        self.frame_work(0x11)
        report = loader.load(self.held, {"model": model})
        time.sleep(lag_s)
        return {
            "equal": [bool((memory_of(value) == pattern).all()) for value in self.held.values()],
            "by": report.transport,
        }

    def begin_capture(self):
        """A thread begins to capture a graph, in the mode of torch.npu.graph, as vLLM does once it has loaded."""
        device, begun = int(os.environ["NODE_DEVICE"]), threading.Event()

        def capture():
            acl, stream, graph = ctypes.CDLL("libascendcl.so"), ctypes.c_void_p(), ctypes.c_void_p()
            set_device(device)
            results = [acl.aclrtCreateStream(ctypes.byref(stream)), acl.aclmdlRICaptureBegin(stream, 0)]
            begun.set()
            self.captured.wait()
            self.capture_results = [*results, acl.aclmdlRICaptureEnd(stream, ctypes.byref(graph))]

        self.captured = threading.Event()
        self.capturing = threading.Thread(target=capture)
        self.capturing.start()
        begun.wait()
        refused = ctypes.CDLL("libascendcl.so").aclrtMemcpy
        here, size = ctypes.create_string_buffer(8), ctypes.c_size_t(8)
        return {"synchronous_copy": refused(here, size, here, size, 0)}

    def end_capture(self):
        self.captured.set()
        self.capturing.join()
        return {"results": self.capture_results}

    def operate(self, what):
        """What torch_npu does to tensors of a device without a kernel: the results, by the names of the operations."""
        import torch

        def rows():
            return torch.arange(24, dtype=torch.int32).to("npu").view(4, 6)

        def event():
            first, second = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
            side = torch.npu.Stream()
            first.record()
            side.wait_event(first)
            second.record(side)
            second.synchronize()
            torch.npu.synchronize()
            return [first.query(), second.query(), first.elapsed_time(second) >= 0]

        def copied():
            target = torch.zeros(4, 6, dtype=torch.int32).to("npu")
            target.copy_(rows())
            return target.cpu().tolist()

        def beside():
            with torch.npu.stream(torch.npu.Stream()):
                made = rows().clone()
            torch.npu.synchronize()
            return made.cpu().tolist()

        known = {
            "view": lambda: rows().view(-1)[5:9].cpu().tolist(),
            "slice": lambda: rows()[1:3].cpu().tolist(),
            "bytes": lambda: rows().view(torch.uint8).cpu().view(torch.int32).tolist(),
            "copy": copied,
            "clone": lambda: rows().clone().cpu().tolist(),
            "another stream": beside,
            "events": event,
        }
        return {name: known[name]() for name in what}

    def mixed_model(self, model):
        """One with a weight on the device and a table in CPU memory, with a view of it: published, and pulled anew."""
        import torch

        from yr_fastload_native.vllm.weights import Landing, exchanged_tensors, on_one_device

        def make(start):
            made = torch.nn.Module()
            made.weight = torch.nn.Parameter(torch.arange(start, start + 9.0).to("npu"), requires_grad=False)
            made.register_buffer("table", torch.arange(start, start + 5))
            made.register_buffer("part", made.table[2:4])
            made.register_buffer("empty", torch.empty(0))
            return made

        source, target = make(1), make(100)
        try:
            self._loader({"publish_as": "host"}).publish(exchanged_tensors(source, frozenset()), {"model": model})
            refused = False
        except self.fl.InvalidArgumentError:
            refused = True
        kept = on_one_device(exchanged_tensors(source, frozenset()))
        self._loader({"publish_as": "host"}).publish(kept, {"model": model})
        source.table.fill_(-1)  # what was published is a copy
        landing = Landing(target, exchanged_tensors(target, frozenset()), frozenset())
        self._loader({"hold": False}).load(landing.tensors, {"model": model})
        before = target.table.tolist()
        landing.finish()
        return {
            "refused": refused,
            "weight": target.weight.cpu().tolist(),
            "table": [before[0], *target.table.tolist()],
            "part": target.part.tolist(),
            "shares": target.part.data_ptr() == target.table.data_ptr() + 16,
        }

    @staticmethod
    def layered_model(layers, size, replaces, blank=False):
        """A model on the device, of layers that have to be processed; ``replaces``: which makes new weights."""
        import torch

        class Method:
            def process_weights_after_loading(self, layer):
                if replaces:
                    fresh = torch.empty_like(layer.weight)
                    fresh.copy_(layer.weight)
                    layer.weight = torch.nn.Parameter(fresh, requires_grad=False)

        made = torch.nn.Module()
        for number in range(layers):
            layer = torch.nn.Module()
            bytes_ = torch.full((size,), -1 if blank else number % 100, dtype=torch.int8)
            layer.weight = torch.nn.Parameter(bytes_.to("npu"), requires_grad=False)
            layer.quant_method = Method()
            made.add_module(str(number), layer)
        return made

    def source_of(self, model, settings):
        """A model's source, as vLLM's plugin has one."""
        from yr_fastload_native.vllm.publishing import Source
        from yr_fastload_native.vllm.settings import Settings

        given = Settings.of({"worker": os.environ["NODE_WORKER"], "publish": "background", **settings})
        self.loaders.append(self.fl.FastLoader(given.transfer))
        return Source(self.loaders[-1], {"model": model}, given)

    def process_model(self, model, layers, size, replaces, settings=None):
        """Load a model of layers, have them processed as vLLM does, and publish it: the most device memory taken."""
        from yr_fastload_native import sim
        from yr_fastload_native.vllm import publishing

        made = self.layered_model(layers, size, replaces)
        raw, outcome = None, {}
        if settings is not None:
            raw = publishing.RawWeights(self.source_of(model, settings), dict(made.named_parameters()))
            raw.before_processing(made)
        for layer in made.children():
            layer.quant_method.process_weights_after_loading(layer)
        if raw is not None:
            raw.after_processing(made, outcome)
            publishing.wait(60)
            self.publications[model] = self.loaders[-1].publication({"model": model})
            outcome["by"] = "+".join(self.publications[model].transports)
        self.source = dict(made.named_parameters())
        return {"peak": max(sim.counters()["device_peak_bytes"].values()), **outcome}

    def pull_and_process(self, model, layers, size, replaces, settings):
        """As `process_model`, but for weights that are pulled from others, and served if they stay."""
        from yr_fastload_native import sim
        from yr_fastload_native.vllm import publishing
        from yr_fastload_native.vllm.model_contents import storages
        from yr_fastload_native.vllm.pulled_weights import PulledWeights

        made = self.layered_model(layers, size, replaces, blank=True)
        source = self.source_of(model, settings)
        report = source.fast.load(dict(made.named_parameters()), source.identity)
        pulled = PulledWeights(source, dict(made.named_parameters()), made)
        for layer in made.children():
            layer.quant_method.process_weights_after_loading(layer)
        pulled.end()
        publishing.guard(source, storages(made))
        publishing.wait(60)
        weights = dict(made.named_parameters())
        publication = source.fast.publication(source.identity)
        return {
            "peak": max(sim.counters()["device_peak_bytes"].values()),
            "by": report.transport,
            "right": all(bool((w.cpu() == int(name.split(".")[0]) % 100).all()) for name, w in weights.items()),
            "serves": publication is not None and publication.state == "live",
        }

    def private_model(self, model, value, number, pull=False):
        """A processed model with a weight in a private format: publish it as stage `final` does, or pull it."""
        import torch
        import torch_npu

        from yr_fastload_native.vllm.model_contents import SCALARS, Live
        from yr_fastload_native.vllm.publishing import publish_final
        from yr_fastload_native.vllm.stored_form import in_stored_form
        from yr_fastload_native.vllm.weights import Landing

        made = torch.nn.Module()
        weight = torch_npu.empty_with_format((20, 40), dtype=torch.float16, device="npu", acl_format=number)
        made.weight = torch.nn.Parameter(weight, requires_grad=False)
        made.again = made.weight.detach()
        made.plain = torch.nn.Parameter(torch.full((5,), float(value)).to("npu"), requires_grad=False)
        storage = weight.untyped_storage()
        copy, size = ctypes.CDLL("libascendcl.so").aclrtMemcpy, ctypes.c_size_t(storage.nbytes())
        held = ctypes.create_string_buffer(bytes((value + i) % 251 for i in range(storage.nbytes())), storage.nbytes())
        assert copy(ctypes.c_void_p(storage.data_ptr()), size, held, size, 1) == 0
        live, error = Live.of(made), None
        if pull:
            landing = Landing(made, {**live.tensors, SCALARS: live.digest()}, frozenset())
            try:
                self._loader({}).load(in_stored_form(landing.tensors), {"model": model})
            except self.fl.FastLoadError as failed:
                error = failed.code
        else:
            publish_final(self.source_of(model, {"publish": "inline", "stage": "final"}), live, {})
        self.held = {"model": made}
        assert copy(held, size, ctypes.c_void_p(storage.data_ptr()), size, 2) == 0
        return {
            "format": int(torch_npu.get_npu_format(made.weight)),
            "bytes": storage.nbytes(),
            "stored": hashlib.sha256(held.raw).hexdigest(),
            "plain": made.plain.cpu().tolist(),
            "error": error,
        }

    def start_kv_cache(self):
        from kv_cache import KvCache

        self.kv_cache = KvCache(os.environ["NODE_WORKER"], int(os.environ["NODE_DEVICE"]))
        return {}

    def stop_kv_cache(self):
        return self.kv_cache.stop()

    def load_layers(self, model, layers, size):
        """What `process_model` published of one: whether it is right, and by what it came."""
        import torch

        blank = torch.zeros(size, dtype=torch.int8)
        target = {f"{number}.weight": blank.to("npu") for number in range(layers)}
        report = self._loader({"hold": False}).load(target, {"model": model})
        right = all(bool((value.cpu() == int(name.split(".")[0]) % 100).all()) for name, value in target.items())
        return {"right": right, "by": report.transport}

    def publish_cpu_tensors(self, model):
        try:
            self._loader({"transport": "d2d"}).publish(self.weights(1, 1, 100), {"model": model})
        except self.fl.FastLoadError as error:
            return {"error": error.code, "message": str(error)}
        return {"error": None}

    def publish_and_write(self, model):
        """Publish, and change a tensor before the digests are stored: in one call, for a busy machine."""
        chunks = self.publish(model, settings={"chunk_bytes": 16 << 10}, wait_s=0)["chunks"]
        self.write("other")
        return {"in_time": self.serving(model)["chunks"] < chunks}

    def publish_in_vain(self, model, count=12, size=1 << 20, settings=None):
        """A publish of staged copies that fails: its error, and the keys that it meant to store."""
        from yr_fastload_native.catalogue.identity import Identity
        from yr_fastload_native.transports.staged import Staged

        keys, who = [], Identity.of({"model": model}, op="test")

        def remember(event, about):
            if event == "yr_fastload_native.publish":
                keys.extend(Staged().data_keys(who, *about[1:]))

        sys.addaudithook(remember)
        try:
            source = placed(self.weights(1, count, size))
            self._loader(settings or {}).publish(source, {"model": model}, publish_as="staged")
        except self.fl.FastLoadError as error:
            return {"error": error.code, "keys": keys}
        return {"error": None, "keys": keys}

    def load(self, model, seed=1, count=12, size=1 << 20, deadline_s=20.0, settings=None, numpy=False):
        wanted = self.weights(seed, count, size)
        if numpy or not self.target:
            self.target = placed(self.blank(wanted))
        target = {name: value.numpy() for name, value in self.target.items()} if numpy else self.target
        started = time.monotonic()
        try:
            loader = self._loader(settings or {})
            started = time.monotonic()
            report = loader.load(target, {"model": model}, deadline_s=deadline_s)
        except self.fl.FastLoadError as error:
            return {"error": error.code, "message": str(error), "seconds": time.monotonic() - started}
        equal = all(same_bytes(self.target[name], value) for name, value in wanted.items())
        return {
            "equal": equal,
            "transport": report.transport,
            "steps": report.steps,
            "retried": report.chunks_retried,
            "seconds": time.monotonic() - started,
        }

    @staticmethod
    def blank(wanted):
        """The same tensors with other bytes; what shares memory in one shares it in the other."""
        storages = {}
        made = {}
        for name, value in wanted.items():
            storage = value.untyped_storage()
            if storage.data_ptr() not in storages:
                storages[storage.data_ptr()] = storage.clone().fill_(0x5A)
            made[name] = value.new_empty(0).set_(
                storages[storage.data_ptr()], value.storage_offset(), value.shape, value.stride()
            )
        return made

    def round(self, model, number, do):
        """Part of a long series, with one loader: publish and withdraw, or load. Returns what this process holds."""
        if not self.loaders:
            self._loader({"hold": False})
        wanted = self.weights(number % 3, 3, 1 << 20)
        equal = True
        if do == "publish":
            self.publications[model] = self.loaders[0].publish(placed(wanted), {"model": model, "round": number})
            assert self.publications[model].wait_settled(30)
        elif do == "withdraw":
            # In the background: openYuanrong takes a second to let go of a connection that was used.
            threading.Thread(target=self.publications.pop(model).close).start()
        elif do == "load":
            self.target = self.target or placed(self.blank(wanted))
            self.spoil()
            try:
                self.loaders[0].load(self.target, {"model": model, "round": number})
            except self.fl.FastLoadError as error:
                return {"equal": False, "error": str(error)}
            equal = all(same_bytes(self.target[name], value) for name, value in wanted.items())
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held
        process = psutil.Process()
        counters = self.counters()
        return {
            "equal": equal,
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "rss": process.memory_info().rss,
            "alive": {key: counters[key] for key in ("streams", "events", "notifies", "comms", "memory_errors")},
            "left": self.loaders[0].stats()["connections_left_behind"],
        }

    def idle(self):
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        return self.round("", 0, "nothing")

    def spoil_source(self):
        """Change what is published, as a program must not."""
        overwrite(self.source)
        return {}

    def spoil(self):
        """Change what was loaded, as a program must not."""
        overwrite(self.target)
        return {}

    def write(self, how):
        """Change what is published by torch's own means."""
        value = next(iter(self.source.values()))
        if how == "same":
            value.copy_(value.cpu())
        elif how == "other":
            value.copy_(value.cpu() + 1)
        elif how == "moved":
            value.set_((value.cpu() + 1).to(value.device))
        return {}

    def serving(self, model):
        return {"chunks": self.publications[model]._peer.source.serving()}

    def settled(self, model, wait_s=30):
        return {"settled": self.publications[model].wait_settled(wait_s), "failure": self.publications[model].failure}

    def states(self):
        return {"states": [publication.state for publication in self.publications.values()]}

    def check(self, model):
        return {"changed": self.loaders[0].check(self.publications[model]), **self.states()}

    def load_from_threads(self, model, devices):
        """With one loader of the main thread's, from a thread for each device; None: one without."""
        loader, found = self._loader({"hold": False}), []

        def load(device):
            if device is not None:
                set_device(device)
            wanted = self.weights(1, 12, 1 << 20)
            target = placed(self.blank(wanted))
            loader.load(target, {"model": model})
            found.append(all(same_bytes(target[name], value) for name, value in wanted.items()))

        for device in devices:
            thread = threading.Thread(target=load, args=(device,))
            thread.start()
            thread.join()
        return {"equal": found, "thread": self.devices()["thread"]}

    def devices(self):
        """Those that loaders of this process have used, and that of the main thread."""
        from yr_fastload_native import _core

        used = {name for loader in self.loaders for name in loader.stats()["devices"]}
        return {"used": sorted(used), "thread": _core.current_acl_device()}

    def snapshot(self):
        self.before = {name: memory_of(value).copy() for name, value in self.target.items()}
        return {}

    def unchanged(self):
        return {"unchanged": all((memory_of(self.target[name]) == was).all() for name, was in self.before.items())}

    def close(self):
        for loader in self.loaders:
            loader.close()
        self.loaders.clear()
        return {}

    def counters(self):
        from yr_fastload_native import sim

        return sim.counters()


def _commands(task):
    set_device(int(os.environ["NODE_DEVICE"]))
    if os.environ.get("NODE_TORCH_NPU"):
        import torch
        import torch_npu_path  # noqa: F401

        torch.npu.set_device(int(os.environ["NODE_DEVICE"]))
    return Commands()


if __name__ == "__main__":
    serve(_commands)
