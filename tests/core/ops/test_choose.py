"""Choosing columns: the reference against a loop, the kernel against the reference."""

import math

import pytest
import torch

from dycoke.ops.attend.choose import ONE_BLOCK, list_columns, list_columns_torch, top_columns, top_columns_torch
from dycoke.ops.attend.choose_triton import list_columns_triton, top_columns_triton
from tests.cases import folded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INF, NAN = math.inf, math.nan


def loop_top(scores, among, budget, width):
    """Rows of the chosen columns, one comparison after the other."""
    rows = []
    for score, may, count in zip(scores.tolist(), among.tolist(), budget.tolist(), strict=True):
        left, chosen = [c for c, yes in enumerate(may) if yes], []
        while left and len(chosen) < count:
            best = left[0]
            for c in left[1:]:
                if score[c] > score[best] or (math.isnan(score[best]) and not math.isnan(score[c])):
                    best = c
            chosen.append(best)
            left.remove(best)
        rows.append(sorted(chosen) + [-1] * (width - len(chosen)))
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width)


def case(columns, kind, rows=6):
    """Scores and among [B, S], and budgets [B]: none, one, shares, all and more; `kind` says how the scores look."""
    g = torch.Generator().manual_seed(columns)
    scores = torch.randn(rows, columns, generator=g)
    if kind == "ties":
        scores = (scores * 2).round() / 2
    elif kind == "constant":
        scores = torch.full_like(scores, -0.25)
    elif kind == "attention":
        scores = (scores * 4).softmax(1)
    elif kind == "odd":
        values = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 1.0, -NAN])
        scores = values[torch.randint(len(values), scores.shape, generator=g)]
    elif kind == "close":
        scores = (torch.randint(7, scores.shape, generator=g) + 0x3F800000).int().view(torch.float32)
    among = torch.rand(rows, columns, generator=g) < 0.8
    n = among.sum(1)[:6]
    budget = torch.stack([n * 0, n.clamp(max=1), n * 3 // 10, n * 3 // 4, n, n + 3]).diagonal()[:rows].int()
    return scores.to(DEVICE), among.to(DEVICE), budget.to(DEVICE)


@pytest.mark.parametrize("kind", ["spread", "ties", "constant", "odd", "close"])
def test_reference_equals_the_loop(kind):
    scores, among, _ = case(23, kind, rows=25)
    budget = torch.arange(25, dtype=torch.int32, device=DEVICE)
    for width in (23, 30):
        keep = top_columns_torch(scores, among, budget, width)
        assert torch.equal(keep.cpu(), loop_top(scores, among, budget, width)) and keep.dtype == torch.int64


@folded("columns", [1, 2, 17, 128, 333, 2990])
@pytest.mark.parametrize("kind", ["spread", "ties", "constant", "attention", "odd", "close"])
def test_kernel_equals_the_reference(columns, kind, poison_empty):
    if columns == 2990 and kind not in ("spread", "close") and DEVICE == "cpu":
        pytest.skip("what takes long in Triton's interpreter")
    scores, among, budget = case(columns, kind)
    for width in (int(among.sum(1).max()), columns + 5):
        got = top_columns_triton(scores, among, budget, width)
        assert torch.equal(got, top_columns_torch(scores, among, budget, width))
        assert got.dtype == torch.int64


def test_kernel_takes_the_longest_row_it_promises(poison_empty):
    scores, among, _ = case(ONE_BLOCK, "ties", rows=1)
    among.fill_(True)
    for budget in (ONE_BLOCK // 3, ONE_BLOCK):
        count = torch.full((1,), budget, dtype=torch.int32, device=DEVICE)
        got = top_columns_triton(scores, among, count, ONE_BLOCK)
        assert torch.equal(got, top_columns_torch(scores, among, count, ONE_BLOCK))
    for got, want in zip(list_columns_triton(among, 9), list_columns_torch(among, 9), strict=True):
        assert torch.equal(got, want)


def test_longer_rows_work_too():
    scores, among, budget = case(ONE_BLOCK + 1, "spread", rows=3)
    keep = top_columns(scores, among, budget, ONE_BLOCK)
    best = torch.where(among, scores, -INF).sort(dim=1, descending=True).indices
    for row in range(3):
        n = int(budget[row])
        assert keep[row, :n].tolist() == sorted(best[row, :n].tolist()) and (keep[row, n:] == -1).all()
    assert list_columns(among, 3)[0].tolist() == [m.nonzero().flatten().tolist()[:3] for m in among]


def test_kernel_takes_strided_arguments():
    scores, among, _ = case(60, "ties", rows=4)
    scores, among = scores.T.contiguous().T[:, ::2], among[:1, ::2].expand(4, -1)
    budget = torch.full((1,), 7, dtype=torch.int32, device=DEVICE).expand(4)
    assert torch.equal(
        top_columns_triton(scores, among, budget, 9), top_columns_torch(scores, among.contiguous(), budget, 9)
    )
    got, count = list_columns_triton(among, 40)
    want, want_count = list_columns_torch(among.contiguous(), 40)
    assert torch.equal(got, want) and torch.equal(count, want_count)


@pytest.mark.parametrize("listing", [list_columns_torch, list_columns_triton])
@pytest.mark.parametrize("columns", [1, 5, 128, 700])
def test_listed_columns_are_the_true_ones(listing, columns, poison_empty):
    g = torch.Generator().manual_seed(columns)
    read = torch.rand(5, columns, generator=g) < 0.4
    read[0], read[1] = False, True
    want = [[c for c, yes in enumerate(row) if yes] for row in read.tolist()]
    for width in (1, columns, columns + 3):
        index, count = listing(read.to(DEVICE), width)
        assert index.dtype == count.dtype == torch.int32
        assert index.tolist() == [(row + [-1] * width)[:width] for row in want]
        assert count.tolist() == [min(len(row), width) for row in want]


@pytest.mark.parametrize(
    "top,listing", [(top_columns_torch, list_columns_torch), (top_columns_triton, list_columns_triton)]
)
@pytest.mark.parametrize("batch,columns,width", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_nothing_to_choose(top, listing, batch, columns, width):
    scores = torch.zeros(batch, columns, device=DEVICE)
    keep = top(scores, scores == 0, torch.zeros(batch, dtype=torch.int32, device=DEVICE), width)
    assert keep.shape == (batch, width) and (keep == -1).all()
    index, count = listing(scores != 0, width)
    assert index.shape == (batch, width) and (index == -1).all() and count.tolist() == [0] * batch


def test_references_trace():
    scores, among, budget = case(40, "ties")
    for op, args in ((top_columns_torch, (scores, among, budget, 35)), (list_columns_torch, (among, 35))):
        traced = torch.compile(op, fullgraph=True, backend="eager")(*args)
        torch.testing.assert_close(traced, op(*args), atol=0, rtol=0)
