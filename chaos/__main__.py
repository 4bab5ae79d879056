"""``python -m chaos``: rounds of publishing and loading under faults. The last line of its output is JSON.

Everything random follows from the seed and a round's number, so that one round can be run again by itself.
"""

from chaos.command import command
from chaos.site import OneHost

if __name__ == "__main__":
    command(OneHost())()
