"""One loader: its link to a store, and what it keeps published."""
