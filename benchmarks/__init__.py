"""Measurements of this project against others, on the same bytes, in one run; see README.md in this folder."""
