"""``yr-fastload serve``: instances of one model behind one address, started and stopped on request.

Needs the extra ``serve``. A request of a client goes through ``app`` and ``proxy`` to an ``Instance`` of the ``fleet``,
whose server a launcher started as ``vllm_server`` says; ``loads`` tells how it came by its weights. The launcher is
``local``, or that of a cluster (``ray_launcher``, ``yr_launcher``), where an ``actor`` on some machine does what
``local`` does here, and ``remote`` asks it. ``machine`` shares out the devices of one machine.
"""
