"""Whether what `dycoke bench decode` times is right: judged in float64, on slices, before a time is believed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dycoke.bench.decode.model import Loop
from dycoke.ops.attend.sparse_decode import Reads, Store, sparse_decode_observed_torch

# Relative root-mean-square errors. Attention: fp32 sums, rounded once to the dtype. Logits: rounded in every layer.
ATTENTION_APART = {torch.bfloat16: 4e-3, torch.float16: 1e-3, torch.float32: 1e-5}
LOGITS_APART = {torch.bfloat16: 1e-1, torch.float16: 2e-2, torch.float32: 1e-4}
NEAR_TIE = 1e-3  # columns whose attention differs by less, relatively, may change places


def apart(out: Tensor, expected: Tensor) -> float:
    """Relative root-mean-square difference; NaN if any value is."""
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def check_agree(stock: Tensor, ours: Tensor, dtype: torch.dtype) -> float:
    """Distance of two models' logits. Raises RuntimeError if that is more than rounding explains."""
    error = apart(ours, stock)
    if not error <= LOGITS_APART[dtype]:  # also for NaN
        raise RuntimeError(f"logits are {error:.1e} from the stock model's; expected at most {LOGITS_APART[dtype]}")
    return error


def check_loop(name: str, loop: Loop, logits: Tensor, prompt: int, steps: int) -> None:
    """Raises RuntimeError unless the last of `steps` steps wrote its logits, and every step advanced the cache."""
    if not bool(logits.isfinite().all()):
        raise RuntimeError(f"{name}: the last step's logits were not written, or are not finite")
    request = loop.request
    if request is None:
        filled = int(loop.cache.get_seq_length()) - prompt
    else:
        filled = int(request.columns(logits.device).filled.max())
    if filled != steps:
        raise RuntimeError(f"{name}: {steps} steps left {filled} columns behind the prompt")


def check_attention(
    name: str, out: Tensor, query: Tensor, store: Store, reads: Reads, scale: float, rows: Sequence[int]
) -> Tensor:
    """The exact attention of the prompt's columns [rows, S] in some rows of one layer.

    out [B, 1, Hq, D] and query [B, Hq, 1, D] as `DecodeRequest.attend` has them. Raises RuntimeError if the output is
    further from a float64 reference than rounding explains.
    """
    picked = torch.tensor(rows, device=query.device)
    held = store.rows[picked].long()
    exact = Store(
        store.prompt_keys[held].double(),
        store.prompt_values[held].double(),
        store.tail_keys[picked].double(),
        store.tail_values[picked].double(),
        torch.arange(len(rows), dtype=torch.int32, device=query.device),
        store.filled[picked],
    )
    index = None if reads.index is None else reads.index[picked]
    expected, attn = sparse_decode_observed_torch(
        query[picked, :, 0].double(), exact, Reads(reads.count[picked], index), scale
    )
    error = apart(out[picked, 0], expected)
    if not error <= ATTENTION_APART[query.dtype]:
        raise RuntimeError(f"{name}: attention is {error:.1e} from the reference in rows {list(rows)}")
    return attn


def check_choice(name: str, attn: Tensor, reads: Reads, visual: Tensor, budget: int, rows: Sequence[int]) -> None:
    """Raises RuntimeError unless rows read all text and the `budget` visual columns of most attention, near ties aside.

    attn [rows, S]: the observer's, exact. reads: of all rows. visual [S] bool.
    """
    text = int((~visual).sum())
    for number, exact in zip(rows, attn.cpu(), strict=True):
        count, visual = int(reads.count[number]), visual.cpu()
        columns = reads.index[number, :count].long().cpu()
        if count != text + budget or len(columns) != count or not bool((columns.diff() > 0).all()) or columns[0] < 0:
            raise RuntimeError(f"{name}: row {number} reads {count} columns; expected {text + budget}, ascending")
        read = torch.zeros_like(visual)
        read[columns] = True
        if not bool(read[~visual].all()):
            raise RuntimeError(f"{name}: row {number} leaves out text")
        least, most = exact[visual & read].min(), exact[visual & ~read].max()
        if not most <= least * (1 + NEAR_TIE):
            raise RuntimeError(f"{name}: row {number} leaves out a column of more attention than one it reads")
