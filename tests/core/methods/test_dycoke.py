"""DyCoke as released: its order of the tokens and its counts, recorded from the authors' function."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dycoke.budget import kept_per_frame
from dycoke.methods.dycoke import released_count, released_merge
from tests.cases import folded

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "ttm_official.json").read_text())


def frames(t, n, d, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((t, n, d)).astype(np.float32))


@pytest.mark.parametrize("t", GOLDEN["counts"])
def test_released_count_is_what_the_released_code_returned(t):
    for k, count in GOLDEN["counts"][t].items():
        assert released_count(int(t), 196, float(k)) == count


@folded("case", GOLDEN["cases"])
def test_released_order_is_bit_exact(case):
    """Slots recorded by running the released function on the same numbers."""
    x = frames(case["frames"], case["per_frame"], case["dim"], case["seed"])
    embeds, index = released_merge(x, kept_per_frame(case["k"], case["per_frame"]))
    assert index.tolist() == case["index"]
    assert torch.equal(embeds, x.flatten(0, 1)[index])
    assert len(index) == released_count(case["frames"], case["per_frame"], case["k"])


@pytest.mark.parametrize("t", [1, 2, 3, 4])
def test_released_merge_refuses_what_the_released_code_crashes_on(t):
    with pytest.raises(ValueError, match=f"at least 5 frames, got {t}"):
        released_merge(frames(t, 9, 8), 3)


@pytest.mark.parametrize("keep", [-1, 10])
def test_keep_out_of_range(keep):
    with pytest.raises(ValueError, match=f"keep={keep}: expected 0 to 9"):
        released_merge(frames(8, 9, 4), keep)
