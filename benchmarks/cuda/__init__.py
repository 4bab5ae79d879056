"""What a machine with one of CUDA's GPUs shows: right bytes, faults, and rates. ``make gpu-check``."""
