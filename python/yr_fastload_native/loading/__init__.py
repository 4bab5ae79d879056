"""One load: what is tried, what came, and whether it is trusted."""
