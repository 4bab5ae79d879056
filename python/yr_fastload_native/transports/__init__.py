"""How chunks get from a publisher to a reader: one module a transport, the same few functions in each."""
