"""What a framework does with a device while weights are published and loaded: torch_npu, or what stands for it."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from types import SimpleNamespace

from node_state import State
from node_tensors import memory_of, placed, set_device, weights


class Frameworks(State):
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
        self.held = placed(weights(1, 3, 1 << 20))
        loader = self._loader(settings)
        self.frame_work(pattern)
        self.publications[model] = loader.publish(self.held, {"model": model})
        return {"state": self.publications[model].state}

    def load_over_unfinished(self, model, pattern, settings, lag_s):
        """Into tensors that a framework still writes to: which of them have these bytes once it has ended."""
        self.held = placed(weights(2, 3, 1 << 20))
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

    def start_kv_cache(self):
        from kv_cache import KvCache

        self.kv_cache = KvCache(os.environ["NODE_WORKER"], int(os.environ["NODE_DEVICE"]))
        return {}

    def stop_kv_cache(self):
        return self.kv_cache.stop()
