"""One publish, and what keeps it published."""
