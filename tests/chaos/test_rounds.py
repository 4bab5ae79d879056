"""That a campaign is what it says: reproducible, and fair to every kind of fault."""

from __future__ import annotations

from collections import Counter

from chaos.faults import KINDS
from chaos.models import Model

from chaos import schedule


def test_every_kind_is_drawn_as_often():
    for seed in range(20):
        drawn = Counter(schedule.kind_of(seed, number, list(KINDS)) for number in range(10 * len(KINDS)))
        assert drawn == dict.fromkeys(KINDS, 10)


def test_a_round_is_the_same_whenever_it_is_drawn():
    def drawn(seed, number):
        kind = schedule.kind_of(seed, number, list(KINDS))
        spec = schedule.draw(seed, number, kind, KINDS[kind].transports)
        fault = KINDS[kind](spec)
        return spec.told(), fault.told

    assert [drawn(3, number) for number in range(60)] == [drawn(3, number) for number in range(60)]
    assert drawn(3, 5) != drawn(4, 5)


def test_models_are_what_their_seeds_say():
    for framework in ("torch", "numpy"):
        for structure in range(30):
            source, target = Model(structure, 1 << 18, framework, 5), Model(structure, 1 << 18, framework, None)
            assert source.differing(5) == 0 == target.differing(None)
            assert source.differing(6) > 0.9 * source.nbytes
            source.overwrite(6, seen=structure % 2 == 0)
            assert source.differing(6) == 0
            assert {name: tensor.shape for name, tensor in source.tensors.items()} == {
                name: tensor.shape for name, tensor in target.tensors.items()
            }
