"""What is told of a publish or a load: report, timeline, metrics, traces."""
