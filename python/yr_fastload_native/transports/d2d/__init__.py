"""``d2d``: chunks stay in the memory of devices, and readers fetch them from there; by reference, nothing is copied."""
