"""The devices that tensors lie on: a module a kind, all in `registry`, and what a process keeps open of each."""
