"""A KV cache as openYuanrong's connector for vLLM keeps one: blocks go to the worker and back by its own client."""

from __future__ import annotations

import threading
import uuid

import torch
from yr.datasystem.ds_tensor_client import DsTensorClient

LAYERS, BLOCKS, BLOCK = 6, 16, (16, 1 << 10)
WAIT_MS = 60_000


class KvCache:
    """Exchanges blocks over and over, on a thread of its own.

    Args:
        worker: Address of openYuanrong's worker.
        device: Of the layers, which are torch_npu's tensors.

    Attributes:
        rounds: How often all blocks have come back.
        wrong: How often with other bytes.
        error: That ended it.
    """

    def __init__(self, worker, device):
        host, _, port = worker.rpartition(":")
        self._client = DsTensorClient(host, int(port), device)
        self._device = device
        self._over = threading.Event()
        self.rounds, self.wrong, self.error = 0, 0, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._over.set()
        self._thread.join(WAIT_MS / 1000)
        return {"rounds": self.rounds, "wrong": self.wrong, "error": self.error}

    def _run(self):
        try:
            torch.npu.set_device(self._device)
            self._client.init()
            shape = (2 * BLOCKS, *BLOCK)
            layers = [torch.zeros(shape, dtype=torch.int8).to("npu") for _ in range(LAYERS)]
            while not self._over.is_set():
                self._round(layers)
        except Exception as error:
            self.error = repr(error)

    def _round(self, layers):
        here, there = list(range(BLOCKS)), list(range(BLOCKS, 2 * BLOCKS))
        for layer in layers:
            layer.copy_(torch.randint(-128, 128, layer.shape, dtype=torch.int8))
        torch.npu.current_stream().synchronize()
        run = uuid.uuid4().hex
        keys = [f"kv-{run}-{block}" for block in here]
        self._client.mset_page_attn_blockwise_d2h(keys, layers, here).get(WAIT_MS)
        self._client.mget_page_attn_blockwise_h2d(keys, layers, there, WAIT_MS).get(WAIT_MS)
        self._client.delete(keys)
        blocks = [layer.cpu() for layer in layers]
        self.wrong += sum(not torch.equal(block[:BLOCKS], block[BLOCKS:]) for block in blocks)
        self.rounds += 1
