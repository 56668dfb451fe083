"""Videos with cuts, still and moving places, and what every compressor owes whoever calls it."""

import dataclasses

import numpy as np
import torch

from dycoke.types import Compressor, VisualTokens

SHAPES = [(t, grid) for t in (1, 2, 3, 5, 8, 32) for grid in ((1, 1), (3, 3), (4, 5))] + [(48, (3, 3)), (5, (14, 14))]


def clip(frames, grid=(4, 5), dim=16, seed=0, dtype=torch.float32, move=0.5):
    """A video [T, N, D]: scenes of three to five frames; some places move a lot, others hardly; random saliency."""
    random = np.random.RandomState(seed)
    per_frame = grid[0] * grid[1]
    unrest = move * random.choice([0.1, 0.3, 2.0], size=(1, per_frame, 1), p=[0.4, 0.3, 0.3])
    embeds = []
    while len(embeds) < frames:
        scene = random.standard_normal((1, per_frame, dim)) + random.standard_normal(dim)
        length = random.randint(3, 6)
        embeds.extend(scene + unrest * random.standard_normal((length, per_frame, dim)))
    saliency = random.dirichlet(np.ones(per_frame), size=frames)
    return VisualTokens(
        torch.tensor(np.stack(embeds[:frames]), dtype=torch.float32).to(dtype),
        grid,
        torch.tensor(saliency, dtype=torch.float32),
    )


def constant(frames, grid, dtype=torch.float32, value=1.0):
    """Nothing tells one token from another."""
    size = (frames, grid[0] * grid[1])
    return VisualTokens(torch.full((*size, 16), value, dtype=dtype), grid, torch.full(size, value))


def check_contract(before: Compressor, tokens: VisualTokens) -> None:
    """Slots are unique and in range, the budget holds, the call repeats whatever the strides, nothing else changes."""
    frames, per_frame, dim = tokens.embeds.shape
    untouched = tokens.embeds.clone(), tokens.saliency.clone()
    rng = torch.get_rng_state()
    strided = dataclasses.replace(tokens, embeds=tokens.embeds.transpose(0, 1).contiguous().transpose(0, 1))
    kept, again = before.compress(tokens), before.compress(strided)
    assert torch.equal(kept.embeds, again.embeds) and torch.equal(kept.index, again.index)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(tokens.embeds, untouched[0]) and torch.equal(tokens.saliency, untouched[1])

    assert kept.index.dtype == torch.int64 and kept.embeds.dtype == tokens.embeds.dtype
    assert kept.embeds.shape == (len(kept.index), dim) and not kept.embeds.isnan().any()
    assert len(kept.index.unique()) == len(kept.index)
    assert kept.index.min() >= 0 and kept.index.max() < frames * per_frame
    count = before.count(frames, per_frame)
    if count is None:
        assert 1 <= len(kept.index) <= before.bound(frames, per_frame) <= frames * per_frame
    else:
        assert len(kept.index) == count
    assert before.raster or before.positions == "packed"
    if before.raster:
        assert (kept.index.diff() > 0).all()


def check_identity(before: Compressor, tokens: VisualTokens) -> None:
    """Everything is kept, bit for bit and in raster order."""
    kept = before.compress(tokens)
    assert kept.index.tolist() == list(range(len(kept.index)))
    assert torch.equal(kept.embeds, tokens.embeds.flatten(0, 1))


def check_equal(kept, slots: list[int], embeds: list) -> None:
    """The slots and the tokens at them, in that order, are those of a reference."""
    assert kept.index.tolist() == slots
    torch.testing.assert_close(kept.embeds.double(), torch.tensor(np.array(embeds)), atol=1e-4, rtol=0)
