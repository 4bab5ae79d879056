"""How chunks get from a publisher to a reader: a module a transport, each a `Transport`, all in `registry`."""
