"""Tables of tensors, as tests make them."""

from __future__ import annotations

from typing import Any

from yr_fastload_native.weights.tensor_table import TensorTable

# Names that torch and numpy (with ml_dtypes) both have.
SHARED = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


def table_of(tensors: Any, *, writable: bool = False, max_tensors: int = 1000) -> TensorTable:
    return TensorTable(tensors, op="load", writable=writable, max_tensors=max_tensors)
