"""Whether a temporal merge chose the right tokens, judged in float64 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from dycoke.ops.tokens.temporal_merge import WINDOW

NEAR_TIE = 1e-6  # similarities closer than this may change places: the versions sum in fp32, in different orders


def check_merge_output(embeds: Tensor, keep: int, kept: Tensor, index: Tensor) -> None:
    """Raise RuntimeError unless kept [M, D] and index [M] are the temporal merge of frames [T, N, D].

    Whole frames must be whole, the slots of a frame ascend, its least similar `keep` tokens stay (up to near ties),
    and every row be a bit-exact copy of its slot. Source of the rule: DyCoke, section 3.2.
    """
    embeds, kept, index = embeds.cpu(), kept.cpu(), index.cpu()
    frames, per_frame, dim = embeds.shape
    exact = embeds.double()
    start = 0
    for t in range(frames):
        place = t % WINDOW
        count = keep if place else per_frame
        chosen = index[start : start + count] - t * per_frame
        start += count
        ascending = bool((chosen.diff() > 0).all())
        if len(chosen) < count or not ascending or (count and not 0 <= int(chosen[0]) <= int(chosen[-1]) < per_frame):
            raise RuntimeError(f"frame {t}: its {count} slots are not distinct, ascending and within the frame")
        if place and 0 < count < per_frame:
            _check_choice(t, exact[t], exact[t - 1] if place == WINDOW - 1 else exact[t - place], chosen)
    if start != len(index) or kept.shape != (start, dim):
        raise RuntimeError(f"{tuple(kept.shape)} rows and {len(index)} slots; expected {start} of each")
    if not torch.equal(kept, embeds.flatten(0, 1)[index]):
        raise RuntimeError("a row differs from the token its slot names, or was not written")


def _check_choice(t: int, tokens: Tensor, reference: Tensor, chosen: Tensor) -> None:
    similarity = torch.nn.functional.cosine_similarity(tokens, reference, dim=-1)
    stays = torch.zeros(len(tokens), dtype=torch.bool)
    stays[chosen] = True
    gap = float(similarity[stays].max() - similarity[~stays].min())
    if not gap < NEAR_TIE:  # also for NaN
        raise RuntimeError(f"frame {t}: a kept token is more similar, by {gap:.1e}, than one that was dropped")
