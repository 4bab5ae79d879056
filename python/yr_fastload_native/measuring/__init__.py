"""Processes, rooms and figures of measurements: what commands, benchmarks and tests measure with."""
