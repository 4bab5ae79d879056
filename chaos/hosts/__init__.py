"""The campaign on hosts of a cluster: ``python -m chaos.hosts``, `make chaos-hosts`.

Hosts are network namespaces (`bed`), each with a worker, coordinated by an etcd on a host of its own (`cluster`). What
may go wrong is in `faults`; `scenario` sees to it that whatever somebody still has can be loaded again.
"""
