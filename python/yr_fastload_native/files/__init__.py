"""Sets of files, as one more kind of thing that is published: what instances compiled, and what describes a model."""
