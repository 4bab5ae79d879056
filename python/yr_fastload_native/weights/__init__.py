"""Tensors where they lie, and the SHA-256 of their bytes."""
