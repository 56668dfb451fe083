"""Seeds of training, validation and test never meet."""

from itertools import combinations

import pytest
import torch

from dycoke.nano.generator.splits import SIZE, SPLITS, split_seed, split_seeds
from tests.nano.seeds import split_of


def test_a_seed_belongs_to_the_split_it_was_made_for():
    for split in SPLITS:
        for start in (0, 12345, SIZE - 4):
            seeds = split_seeds(split, start, 4)
            assert seeds.dtype == torch.int64 and len(set(seeds.tolist())) == 4
            assert [split_of(seed) for seed in seeds.tolist()] == [split] * 4


def test_splits_have_no_seed_in_common():
    """Whatever number is made a seed: the two top bits alone tell the split."""
    numbers = torch.randint(-(1 << 62), 1 << 62, (1000,), generator=torch.Generator().manual_seed(0)) * 2
    of = {split: set(split_seed(numbers, split).tolist()) for split in SPLITS}
    assert not any(of[a] & of[b] for a, b in combinations(SPLITS, 2))
    assert all(split_of(seed) == split for split in SPLITS for seed in of[split])


def test_seeds_are_numbered():
    assert torch.equal(split_seeds("test", 5, 3), split_seeds("test", 0, 8)[5:])
    assert split_seeds("train", 7, 2).tolist() == [7, 8]
    assert split_seeds("validation", 7, 1).tolist() == [SIZE + 7]
    assert split_seeds("test", 7, 1).tolist() == [2 * SIZE + 7 - (1 << 64)]


@pytest.mark.parametrize(("start", "count"), [(0, 0), (-1, 3), (SIZE - 2, 3)])
def test_numbers_outside_a_split_are_refused(start, count):
    with pytest.raises(ValueError, match=f"start={start}, count={count}"):
        split_seeds("train", start, count)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split='dev': expected one of train, validation, test"):
        split_seeds("dev", 0, 1)
