"""What a process is about to store is told before it is stored, by audit events."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity

pytestmark = pytest.mark.worker


class RefusedError(Exception):
    """Of a program that wants nothing to be stored."""


def test_it_is_told_before_it_is_stored(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    told: list[tuple[Any, ...]] = []
    listening, refusing = True, True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "yr_fastload_native.publish":
            told.append(arguments)
            if refusing:
                raise RefusedError

    sys.addaudithook(hook)  # for ever: nothing takes one out
    weights = {"weight": np.arange(1000)}
    try:
        with pytest.raises(RefusedError):
            loader.publish(weights, identity)
        assert not other_loader.is_published(identity)
        refusing = False
        publication = loader.publish(weights, identity)
    finally:
        listening = False
    assert other_loader.is_published(identity)
    digest = Identity.of(identity, op="test").digest
    assert [each[::2] for each in told] == [(digest, 1), (digest, 1)]
    assert told[1][1] == publication.generation
