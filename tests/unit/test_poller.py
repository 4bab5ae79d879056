"""How often something is looked at: by what looking costs, not by how long it took."""

from __future__ import annotations

import time

from yr_fastload_native.process.poller import Poller

from ..waiting import wait_until


class Looks:
    """Notes when it is looked at, each of which takes a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.at: list[float] = []

    def look(self) -> bool:
        self.at.append(time.monotonic())
        time.sleep(self._seconds)
        return True


def test_a_look_that_was_kept_waiting_costs_no_pause() -> None:
    """A process that stood still for a minute would not look at its tensors for more than an hour."""
    looks = Looks(seconds=0.3)
    poller = Poller(looks.look)  # of the time that it took, a hundredth would be a pause of half a minute
    assert wait_until(lambda: len(looks.at) > 2, 15)
    poller.stop()
    poller.join()


def test_what_other_threads_do_for_a_look_is_paid_for() -> None:
    looks = Looks()
    poller = Poller(looks.look, share=0.5)
    poller.spend(1.0)
    assert wait_until(lambda: len(looks.at) > 2, 30)
    poller.stop()
    poller.join()
    assert looks.at[1] - looks.at[0] >= 2.0


def test_one_that_waits_for_others_may_count_that() -> None:
    looks = Looks(seconds=0.6)
    poller = Poller(looks.look, share=0.5, clock=time.monotonic)
    assert wait_until(lambda: len(looks.at) > 1, 30)
    poller.stop()
    poller.join()
    assert looks.at[1] - looks.at[0] >= 1.8
