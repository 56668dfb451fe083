"""Numbers as functions of (seed, field, counter): the published finaliser, even shares, no two uses alike."""

import pytest
import torch

from dycoke.nano.generator.randomness import (
    bits,
    chance,
    fractions,
    integers,
    mix,
    permutation,
    pick,
    share,
    subset,
)
from dycoke.nano.generator.schedule import Field
from dycoke.nano.generator.splits import split_seeds

SEEDS = torch.cat([split_seeds("train", 0, 200), split_seeds("test", 0, 200)])


def test_mix_is_splitmix64():
    # first two outputs of the published generator for state 0
    golden = 0x9E3779B97F4A7C15
    states = torch.tensor([golden - (1 << 64), (2 * golden) % (1 << 64)])
    assert [x % (1 << 64) for x in mix(states).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_numbers_are_even_and_uses_differ():
    drawn = fractions(SEEDS, 3, 500)
    assert drawn.min() >= 0 and drawn.max() < 1 << 24
    assert torch.bincount((drawn * 10 >> 24).flatten()).div(drawn.numel()).sub(0.1).abs().max() < 0.005
    assert not (bits(SEEDS, 3, 500) == bits(SEEDS, 4, 500)).any()
    assert not (bits(SEEDS[1:], 3, 500) == bits(SEEDS[:-1], 3, 500)).any()
    assert bits(SEEDS, 3, 500).unique().numel() == SEEDS.numel() * 500


def test_a_number_depends_on_its_own_seed_and_place():
    assert torch.equal(bits(SEEDS[7:9], 3, 4, 5), bits(SEEDS, 3, 4, 5)[7:9])
    assert torch.equal(bits(SEEDS, 3, 20), bits(SEEDS, 3, 4, 5).flatten(1))


def test_integers_keep_their_bounds():
    high = torch.tensor([3, 10, 1])
    drawn = integers(SEEDS, 5, -2, high, 100, 3)
    assert [drawn[..., i].unique().tolist() for i in range(3)] == [[*range(-2, 3)], [*range(-2, 10)], [-2, -1, 0]]
    assert share(torch.tensor((1 << 24) - 1), 7).item() == 6


def test_chances_are_kept():
    assert chance(SEEDS, 6, 20, 300).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert not chance(SEEDS, 6, 0, 300).any() and chance(SEEDS, 6, 100, 300).all()


def test_permutations_and_subsets():
    order = permutation(SEEDS, 0, 7)
    assert torch.equal(order.sort(1).values, torch.arange(7).expand(len(SEEDS), 7))
    assert order[:, 0].bincount().min() > 30
    count = torch.arange(len(SEEDS)) % 6
    chosen = subset(SEEDS, 1, 5, count)
    assert torch.equal(chosen.sort(1).values, torch.arange(5).expand(len(SEEDS), 5))
    for row, size in zip(chosen.tolist(), count.tolist(), strict=True):
        assert row[:size] == sorted(row[:size]) and row[size:] == sorted(row[size:])
    assert chosen[count == 1, 0].bincount().min() > 5


def test_picking_is_drawing_for_one_seed():
    drawn = integers(SEEDS, 41, 0, 13, 1)[:, 0].tolist()
    assert [pick(seed, 41, 13) for seed in SEEDS.tolist()] == drawn


def test_no_two_uses_of_a_seed_share_a_field():
    assert len(Field.__members__) == len({int(field) for field in Field})  # a doubled number would be an alias
