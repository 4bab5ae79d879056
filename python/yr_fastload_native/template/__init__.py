"""A process that has imported what servers need, and that forks them instead of having each import it again.

``process`` is that process. It imports (``imports``), with what it reads of the environment noted (``environment``),
forks as long as that is safe (``fitness``), and each server gets a keeper of its own (``birth``). In a server that was
forked, processes that multiprocessing would spawn are forked too (``spawning``). The other end is `service.template`.
"""
