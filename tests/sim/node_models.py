"""Models on a device that are exchanged, and processed, as in vLLM."""

from __future__ import annotations

import ctypes
import hashlib
import os

from node_state import State


class Models(State):
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

    def load_layers(self, model, layers, size):
        """What `process_model` published of one: whether it is right, and by what it came."""
        import torch

        blank = torch.zeros(size, dtype=torch.int8)
        target = {f"{number}.weight": blank.to("npu") for number in range(layers)}
        report = self._loader({"hold": False}).load(target, {"model": model})
        right = all(bool((value.cpu() == int(name.split(".")[0]) % 100).all()) for name, value in target.items())
        return {"right": right, "by": report.transport}
