"""Averaging tokens that leave into those that stay, against a loop in float64."""

import pytest
import torch

from dycoke.methods.holitom import fold
from dycoke.ops.tokens.survivors import strongest
from tests.support.naive import cosine


def loop(hidden, visual, index, mask):
    """Rows of tokens [S', D] that go on, each with the mean of those it stands for."""
    out = []
    for row in range(len(hidden)):
        slots = [slot for slot, real in zip(index[row].tolist(), mask[row].tolist(), strict=True) if real]
        targets = [slot for slot in slots if visual[row, slot]]
        guests = {slot: [hidden[row, slot].double()] for slot in slots}
        for slot in range(hidden.shape[1]):
            if visual[row, slot] and slot not in slots and targets:
                nearest = max(targets, key=lambda t: (cosine(hidden[row, slot], hidden[row, t]), -t))
                guests[nearest].append(hidden[row, slot].double())
        out.append(torch.stack([torch.stack(each).mean(0) for each in guests.values()]))
    return out


def case(*rows: str, keep: float, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(rows[0]))
    visual = torch.tensor([[slot == "v" for slot in row] for row in rows])
    hidden = torch.randn(*visual.shape, 8, generator=generator).to(dtype)
    scores = torch.rand(visual.shape, generator=generator)
    return hidden, visual, *strongest(scores, visual, lambda n: round(n * keep))


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    "rows", [("tvvvvvvvvtt",), ("tvvvvvvvvtt", "ttttvvvttvv", "ttttttttttt")], ids=["one", "batch"]
)
def test_means_are_the_loops(rows, keep):
    hidden, visual, index, mask = case(*rows, keep=keep)
    got = fold(hidden, visual, index, mask)
    for row, want in enumerate(loop(hidden, visual, index, mask)):
        torch.testing.assert_close(got[row][mask[row]].double(), want, atol=1e-5, rtol=0)


def test_means_of_half_precision_are_rounded_once():
    hidden, visual, index, mask = case("tvvvvvvvvtt", keep=0.25, dtype=torch.bfloat16)
    (want,) = loop(hidden, visual, index, mask)
    assert torch.equal(fold(hidden, visual, index, mask)[0], want.bfloat16())


def test_what_nothing_goes_to_stays_to_the_bit():
    hidden, visual, index, mask = case("tvvvvvvvvtt", keep=0.5, dtype=torch.bfloat16)
    got, kept = fold(hidden, visual, index, mask), hidden.take_along_dim(index[:, :, None], 1)
    text = ~visual.gather(1, index)
    assert got.dtype == torch.bfloat16 and torch.equal(got[text], kept[text])
    assert not torch.equal(got, kept)


def test_nothing_is_averaged_where_no_visual_token_stays():
    hidden, visual, index, mask = case("tvvvvt", keep=0.0)
    assert torch.equal(fold(hidden, visual, index, mask), hidden[:, [0, 5]])
