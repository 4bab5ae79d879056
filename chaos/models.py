"""Random models: what their tensors are follows from one seed, what bytes they hold from another.

Publisher, reader and checker make them from the same two numbers, so that nobody has to send the truth to anybody.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chaos.device_storage import DeviceStorage

__all__ = ["PATTERN", "Model", "content_of"]

PATTERN = 0x5A  # what a destination holds before a load
_ON_DEVICES = ("opaque", "lagging")
_DTYPES = {"uint8": 1, "int32": 4, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8}


class Model:
    """Tensors over storages of bytes.

    Args:
        structure: Seed of names, dtypes, shapes, and of what shares memory with what.
        size: Bytes of all tensors, about.
        framework: ``torch`` or ``numpy``; or ``opaque`` or ``lagging``: arrays in a device's memory that the CPU does
            not reach, with bytes that are there at once, or as late as a framework's stream writes them.
        content: Seed of the bytes; None fills them with the pattern.
    """

    def __init__(self, structure: int, size: int, framework: str, content: int | None) -> None:
        self._framework = framework
        self.tensors: dict[str, Any] = {}
        self._on_device: list[DeviceStorage] = []
        self._owners: list[str] = []  # of each storage, the name of a tensor that spans it
        rng = random.Random(structure)
        for index, count in enumerate(_sizes(rng, size)):
            name, dtype = f"layers.{index}.weight", rng.choice(list(_DTYPES))
            count -= count % (2 * _DTYPES[dtype])
            raw = np.full(count, PATTERN, np.uint8) if content is None else content_of(content, index, count)
            tensor = self._tensor(raw, dtype)
            self._owners.append(name)
            shape = rng.choice(["flat", "matrix", "transposed"])
            if shape != "flat" and count:
                tensor = tensor.reshape(2, -1)
            self.tensors[name] = tensor.T if shape == "transposed" else tensor
            extra = rng.random()
            if extra < 0.1:
                self.tensors[f"tied.{index}"] = self.tensors[name]
            elif extra < 0.2 and count:
                flat = tensor.reshape(-1)
                self.tensors[f"view.{index}"] = flat[: len(flat) // 2]
        if rng.random() < 0.3:
            self.tensors["empty"] = self._tensor(np.zeros(0, np.uint8), "float32")
        self._on_device = self._moved() if framework in _ON_DEVICES else []

    def _moved(self) -> list[DeviceStorage]:
        """Have the tensors, of numpy until then, lie in a device's memory. Each begins where its storage does."""
        from chaos.device_storage import DeviceStorage

        lagging = self._framework == "lagging"
        made = {raw.ctypes.data: DeviceStorage(raw, lagging=lagging) for raw in self.storages()}
        storages = list(made.values())
        for name, tensor in self.tensors.items():
            storage = made.get(tensor.ctypes.data) or DeviceStorage(tensor.view(np.uint8))
            self.tensors[name] = storage.array(tensor)
        return storages

    def _tensor(self, raw: NDArray[np.uint8], dtype: str) -> Any:
        if self._framework == "torch":
            import torch

            kind = getattr(torch, dtype)
            return torch.from_numpy(raw).view(kind) if raw.size else torch.empty(0, dtype=kind)
        if dtype == "bfloat16":
            import ml_dtypes

            return raw.view(ml_dtypes.bfloat16)
        return raw.view(dtype)

    def storages(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes of each storage where they are now: an abandoned transfer may have moved torch's.

        Of memory that the CPU does not reach they are copies.
        """
        if self._on_device:
            yield from (storage.read() for storage in self._on_device)
            return
        for name in self._owners:
            tensor = self.tensors[name]
            if self._framework == "torch":
                import torch

                yield torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
            else:
                yield (tensor.T if tensor.flags.f_contiguous else tensor).reshape(-1).view(np.uint8)

    @property
    def nbytes(self) -> int:
        return sum(storage.size for storage in self.storages())

    def differing(self, content: int | None) -> int:
        """How many bytes are not those of this content, of the pattern if None."""
        wrong = 0
        for index, storage in enumerate(self.storages()):
            wanted = PATTERN if content is None else content_of(content, index, storage.size)
            wrong += int(np.count_nonzero(storage != wanted))
        return wrong

    def overwrite(self, content: int, *, seen: bool) -> None:
        """Give every tensor other bytes, as a program that goes on training would.

        Args:
            content: Seed of the bytes.
            seen: Whether by torch's own operations, which count versions; else behind its back.
        """
        for index, (name, storage) in enumerate(zip(self._owners, self.storages(), strict=True)):
            wanted = content_of(content, index, storage.size)
            if seen and self._framework == "torch":
                tensor = self.tensors[name]
                tensor = tensor.T if tensor.dim() == 2 and not tensor.is_contiguous() else tensor
                source = self._tensor(wanted, str(tensor.dtype).removeprefix("torch."))
                tensor.copy_(source.reshape(tensor.shape))
            elif self._on_device:
                self._on_device[index].write(wanted)
            else:
                storage[:] = wanted


def _sizes(rng: random.Random, size: int) -> list[int]:
    """Bytes of each storage: a few that make up most, and some small ones, which share chunks."""
    large = [rng.randint(size // 8, size // 2) for _ in range(rng.randint(1, 4))]
    large = [part * size // sum(large) for part in large]
    small = [rng.randint(0, 64 << 10) for _ in range(rng.randint(0, 12))]
    both = large + small
    rng.shuffle(both)
    return both


def content_of(content: int, index: int, size: int) -> NDArray[np.uint8]:
    """Bytes of one storage. No two contents agree in many of them."""
    words = np.random.SFC64([content, index]).random_raw(-(-size // 8)) if size else np.zeros(0, np.uint64)
    made: NDArray[np.uint8] = words.view(np.uint8)[:size].copy()
    return made
