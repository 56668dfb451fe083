"""Every conversion of a ratio into a count. Rounding is decided here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real


def check_ratio(name: str, value: float, *, above_zero: bool = False, below_one: bool = False) -> None:
    """Raise TypeError or ValueError unless `value` is a number in [0, 1], without 0 or 1 where asked."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: expected a number")
    if not (0.0 <= value <= 1.0) or (above_zero and value == 0.0) or (below_one and value == 1.0):
        low, high = "(" if above_zero else "[", ")" if below_one else "]"
        raise ValueError(f"{name}={value!r}: expected a number in {low}0, 1{high}")


def kept_per_frame(k: float, per_frame: int) -> int:
    """Tokens a compared frame keeps in temporal merging: int((1 - K) * N) in double, as the released code counts.

    K is the share removed. K = .7 and N = 196 give 58; K = 0 gives N; K = 1 gives 0. Source: DyCoke, section 3.2.
    """
    check_ratio("k", k)
    return int((1 - float(k)) * per_frame)


def windows_count(frames: int, per_frame: int, k: float) -> int:
    """Tokens temporal merging keeps of T frames of N: one whole frame in each window of 4 (the tail's too)."""
    whole = -(-frames // 4)
    return whole * per_frame + (frames - whole) * kept_per_frame(k, per_frame)


def official_count(frames: int, per_frame: int, k: float) -> int:
    """Tokens the released temporal merging keeps: an odd last frame vanishes, the last window's third frame stays."""
    paired = frames // 2 * 2
    whole = frames // 2 - official_windows(frames)
    return whole * per_frame + (paired - whole) * kept_per_frame(k, per_frame)


def official_windows(frames: int) -> int:
    """Windows whose third frame the released code compares with the first: those that start before frame T - 4."""
    return -(-max(frames - 4, 0) // 4)


def kept_visual(p: float, visual: int) -> int:
    """Visual tokens a pruned decode step reads of `visual`: int(V * (1 - P)) in double, as the released code counts.

    P is the share removed, in [0, 1): P = .7 and V = 100 give 30. Source: DyCoke, section 3.3.
    """
    check_ratio("p", p, below_one=True)
    return int(visual * (1 - float(p)))


def decimal_power(share: float, power: int) -> float:
    """share to a power as one writes it in a list: the double nearest to the power of its decimal digits.

    .7 squared gives .49, of which 100 tokens keep 49; .7 * .7 in double is less, and would lose one.
    """
    return float(Fraction(str(float(share))) ** power)


# Tokens of 576 behind SparseVLM's three layers, by the budget each list is named for. Source: its second release,
# Gumpest/SparseVLMs, llava/model/language_model/score.py with USE_VERSION=2_0.
SPARSEVLM_LISTS = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}


def sparsevlm_shares(keep: float) -> tuple[float, float, float]:
    """Shares of the visual tokens left behind SparseVLM's three layers.

    At keep = 1/3 the published 300, 200 and 118 of 576; powers of `keep`, so that 1 keeps everything and less never
    leaves more.
    """
    check_ratio("keep", keep, above_zero=True)
    return tuple(keep ** math.log(count / 576, 1 / 3) for count in SPARSEVLM_LISTS[192])


def sparsevlm_published(budget: int) -> tuple[float, float, float]:
    """Shares of the visual tokens that the published list of a budget, 192, 128, 96 or 64 of 576, leaves."""
    return tuple(count / 576 for count in SPARSEVLM_LISTS[budget])


def stage_of(share: float, before: float, visual: int) -> int:
    """Visual tokens that go on of the `visual` left of a share `before`, so that the share `share` is left."""
    return min(visual, max(1, round(visual * share / before)))


def framefusion_ratio(spent: list[float], cost: float, layers: int) -> float:
    """Share of the tokens to drop now so that all layers together cost the share `cost` of what they would.

    spent: the shares dropped at the layers so far, each of what was left. Between 0 and 1; 1 where nothing of the cost
    is left. Source: FrameFusion, released code.
    """
    left, used = 1.0, 0.0
    for dropped in spent:
        left *= 1 - dropped
        used += left
    remaining = (layers - len(spent)) * left
    return min(1.0, max(0.0, 1 - (layers * cost - used) / remaining)) if remaining else 0.0


def from_keep(keep: float, total: int) -> int:
    """Count for a share `keep` in (0, 1] of `total`: nearest integer (ties to even), at least 1, at most `total`."""
    check_ratio("keep", keep, above_zero=True)
    return min(total, max(1, round(keep * total)))


def dominant_tokens(kept: int) -> int:
    """Of `kept` tokens of a frame, those VisionZip keeps as they are: int(S * 54 / 64), as in its video port.

    The split of its image default, 54 + 10. S = 20, 30, 40, 50 give 16, 25, 33, 42.
    """
    return kept * 54 // 64


def outlier_tokens(outliers: int, frames: int, per_frame: int) -> int:
    """Salient tokens a frame keeps where `outliers` of a video's T * N saliencies stand out: int(N * share).

    In double, as PruMerge's released code counts, but at least 1 and at most N // 4. No more than a quarter of any
    numbers lie above their third quartile; a quartile rounded to fp32 may miss that.
    """
    return max(1, min(per_frame // 4, int(per_frame * (outliers / (frames * per_frame)))))


def spacing_step(outliers: int, frames: int, per_frame: int) -> int:
    """Slots from one spaced token of PruMerge+ to the next as released: int(int(1 / r) / 3) of a share r of outliers.

    In double, but at least 1; of a video without outliers r is that of one a frame, as in `outlier_tokens`. r = .123
    gives 2, and so 288 spaced tokens of 576, not 3 r, 213. Source: 42Shawn/LLaVA-PruMerge@1ca8b2b,
    llava/model/multimodal_encoder/clip_encoder.py, token_prune_merge_advanced_plus.
    """
    share = (outliers or frames) / (frames * per_frame)
    return max(1, int(int(1 / share) / 3))


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise TypeError or ValueError unless `value` is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected an integer")
    if value < least:
        raise ValueError(f"{name}={value!r}: expected an integer from {least}")


def share_floor(share: float, total: int, least: int = 0) -> int:
    """int(total * share) in double, as released code counts it, but `least` at least and `total` at most."""
    return min(total, max(least, int(total * float(share))))


def share_round(share: float, total: int) -> int:
    """round(total * share) in double, ties to even, as released code counts it; at most `total`."""
    return min(total, round(total * float(share)))


def share_ceil(share: float, total: int) -> int:
    """ceil(total * share) in double, as released code counts it; at most `total`."""
    return min(total, math.ceil(total * float(share)))


def share_out(counts: Sequence[int], total: int) -> list[int]:
    """Share `total` in proportion to `counts`, exactly, nobody above his own; all of them if `total` reaches their sum.

    Everyone gets the floor of his share. What is left goes out one by one, to those who would get nothing first, then
    by the largest remainder; ties go to the first.
    """
    whole = sum(counts)
    if total >= whole:
        return list(counts)
    shares = [divmod(count * total, whole) for count in counts]
    order = sorted(range(len(counts)), key=lambda i: (shares[i][0] > 0 or counts[i] == 0, -shares[i][1]))
    extra = set(order[: total - sum(floor for floor, _ in shares)])
    return [floor + (i in extra) for i, (floor, _) in enumerate(shares)]


def holitom_ratio(keep: float, removed: int, total: int) -> float:
    """Share kept of what is left once still positions are merged over time, in double, as the released code has it.

    keep is the share of all `total` tokens, `removed` of which the merging takes away.
    Source: cokeshao/HoliTom@b1d1412, holitom/llava_arch.py.
    """
    return min(float(keep) / ((total - removed) / total), 1.0)


def holitom_bound(keep: float, frames: int, per_frame: int) -> int:
    """Most tokens HoliTom keeps: the budget and what rounding adds, 1 a frame and 1/2 a segment of several frames."""
    total = frames * per_frame
    return min(total, math.ceil(float(keep) * total + 1.25 * frames))


def prunevid_clusters(keep: float, tokens: int) -> int:
    """Clusters PruneVid makes of a group of tokens: int(n * keep), at least one; up to 14 tokens stay as they are."""
    return tokens if tokens <= 14 else share_floor(keep, tokens, least=1)


def prunevid_bound(keep: float, frames: int, per_frame: int) -> int:
    """Most tokens PruneVid keeps: in every frame the moving ones, and half of the static ones, shared by two frames."""
    clusters = [prunevid_clusters(keep, tokens) for tokens in range(per_frame + 1)]
    return max(2 * moving + static for moving, static in zip(reversed(clusters), clusters, strict=True)) * frames // 2


def anchor_counts(lengths: Sequence[int], context: int, room: int, every: int) -> list[int]:
    """Anchors of every frame, given the lengths of the segments: `context` times the length in each, exactly.

    Anchor frames are every `every`-th, counted from a segment's end, or closer together where fewer could not hold the
    anchors, at most `room` each. They get equal shares, the remainder one each from the last on, as FastVID's release
    for LLaVA-Video has it.
    """
    return [count for length in lengths for count in _spread_anchors(length, context * length, room, every)]


def llava_video_counts(
    lengths: Sequence[int], kept: int, context: float, per_frame: int, every: int
) -> tuple[list[int], list[int]]:
    """Salient tokens and anchors of every frame, as FastVID's release for LLaVA-Video counts them, segment by segment.

    Of a segment's `kept` times L tokens int(kept * L * context) are anchors, in the frames `anchor_counts` says. The
    others are salient, as many in each frame, the remainder one each from the first on. Source:
    LunarShen/FastVID@ea8b57e, fastvid_llavavideo/LLaVA-NeXT/llava/model/language_model/modeling_qwen2.py.
    """
    salient, anchors = [], []
    for length in lengths:
        pooled = share_floor(context, kept * length)
        share, rest = divmod(kept * length - pooled, length)
        salient += [share + (place < rest) for place in range(length)]
        anchors += _spread_anchors(length, pooled, per_frame - share - bool(rest), every)
    return salient, anchors


def _spread_anchors(length: int, total: int, room: int, every: int) -> list[int]:
    if not total:
        return [0] * length
    needed = -(-total // room)
    step = every if needed == 1 else min(every, (length - 1) // (needed - 1))
    share, rest = divmod(total, -(-length // step))
    from_end = [0 if place % step else share + (place // step < rest) for place in range(length)]
    return from_end[::-1]


def flashvid_per_frame(keep: float, expansion: float, per_frame: int) -> int:
    """Tokens of a frame that FlashVID lets into the language model: ceil(N * keep * expansion) in double, at most N."""
    return min(per_frame, math.ceil(per_frame * float(keep) * float(expansion)))
