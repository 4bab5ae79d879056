"""``yr-fastload serve``: instances of one model behind one address, started and stopped on request.

Needs the extra ``serve``. A client's request goes through ``app`` and ``proxy`` to an ``Instance`` of the ``fleet``. A
launcher started its server with the command from ``vllm_server``, and ``loads`` says how it got its weights. The
launcher is ``local`` or, for a cluster, ``ray_launcher`` or ``yr_launcher``; there an ``actor`` on some machine does
what ``local`` does here, and ``remote`` talks to it. ``machine`` assigns the devices of one machine.
"""
