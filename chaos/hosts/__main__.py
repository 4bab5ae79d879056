"""``python -m chaos.hosts``: rounds of publishing and loading on three hosts. The last line of its output is JSON."""

import sys

from chaos.command import command
from chaos.hosts.namespaces import why_no_etcd, why_not
from chaos.hosts.site import Hosts

if __name__ == "__main__":
    why = why_not() or why_no_etcd()
    if why:
        sys.exit(f"there can be no hosts here: {why}")
    command(Hosts())()
