"""A store that holds some columns: what is fetched, where it goes, and that reading through it misses nothing."""

import random

import pytest
import torch

from dycoke.ops.attend.choose import place_columns, place_columns_torch, plan_fetch, plan_fetch_torch, top_columns
from dycoke.ops.attend.choose_triton import place_columns_triton, plan_fetch_triton
from dycoke.ops.attend.host_fetch import fetch, fetch_torch
from dycoke.ops.attend.host_fetch_triton import fetch_triton
from tests.cases import folded

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
OPERATIONS = {
    "torch": (fetch_torch, plan_fetch_torch, place_columns_torch),
    "triton": (fetch_triton, plan_fetch_triton, place_columns_triton),
}


@pytest.fixture(params=["largest", "zeros"])
def fresh_memory(request, monkeypatch):
    """What torch.empty holds: kernels must not take what they have not written for a result or a finding of theirs."""
    if request.param == "zeros":
        monkeypatch.setattr(torch, "empty", torch.zeros)
        monkeypatch.setattr(torch, "empty_like", torch.zeros_like)
    else:
        torch.use_deterministic_algorithms(True)
        assert torch.empty(1, dtype=torch.int32).item() == torch.iinfo(torch.int32).max
    yield
    torch.use_deterministic_algorithms(False)


def stores(rows, heads, columns, slots, dim, dtype=torch.float32, seed=0):
    """Full keys and values [P, H, S, D] on the device, their pinned copies, and slots [B, H, A, D] of NaN."""
    g = torch.Generator().manual_seed(seed)
    full = [torch.randn(rows, heads, columns, dim, generator=g).to(dtype) for _ in range(2)]
    host = [store.pin_memory() if GPU else store for store in full]
    held = [torch.full((rows, heads, slots, dim), torch.nan, dtype=dtype, device=DEVICE) for _ in range(2)]
    return [store.to(DEVICE) for store in full], host, held


def run_both(full, host, rows, wanted, held, first):
    """Slots after the reference, and after the kernel."""
    by_torch, by_triton = [h.clone() for h in held], [h.clone() for h in held]
    fetch_torch(*full, rows, wanted, *by_torch, first)
    fetch_triton(*host, rows, wanted, *by_triton, first)
    return by_torch, by_triton


@folded("heads,columns,width,dim", [(1, 5, 3, 64), (2, 40, 17, 128), (4, 33, 16, 24), (3, 90, 50, 7)])
@folded("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fetched_columns_land_in_their_slots(heads, columns, width, dim, dtype):
    first, batch = 2, 3
    full, host, held = stores(batch, heads, columns, first + width + 1, dim, dtype, seed=dim)
    g = torch.Generator().manual_seed(width)
    wanted = torch.randint(-2, columns, (batch, width), generator=g).clamp(min=-1).int().to(DEVICE)
    wanted[1] = -1
    rows = torch.tensor([2, 0, 2], dtype=torch.int32, device=DEVICE)
    want = [h.clone() for h in held]
    for b, w in (wanted >= 0).nonzero().tolist():
        for target, source in zip(want, full, strict=True):
            target[b, :, first + w] = source[rows[b], :, wanted[b, w]]
    for got in run_both(full, host, rows, wanted, held, first):
        for slots, expected in zip(got, want, strict=True):
            torch.testing.assert_close(slots, expected, atol=0, rtol=0, equal_nan=True)


def test_stores_with_columns_before_heads():
    """Strides are arguments: [P, S, H, D] memory, rows of a longer store, one row of wanted columns for all."""
    full, host, held = stores(2, 30, 4, 2, 8)
    full, host = ([s.transpose(1, 2) for s in both] for both in (full, host))  # [P, H=4, S=30, D]
    held = [h.transpose(1, 2).new_full((2, 20, 4, 8), torch.nan).transpose(1, 2)[:, :, 3:] for h in held]
    wanted = torch.tensor([[7, -1, 29, 0]], dtype=torch.int32, device=DEVICE).expand(2, -1)
    rows = torch.tensor([1, 0], dtype=torch.int32, device=DEVICE)
    by_torch, by_triton = run_both(full, host, rows, wanted, held, 1)
    for got, want, source in zip(by_triton, by_torch, full, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0, equal_nan=True)
        assert torch.equal(want[:, :, 3], source[[1, 0], :, 29]) and want[:, :, 2].isnan().all()


@pytest.mark.parametrize("batch,width", [(0, 3), (2, 0)])
def test_no_slots(batch, width):
    full, host, held = stores(2, 1, 4, 3, 8)
    held = [h[:batch] for h in held]
    wanted = torch.zeros(batch, width, dtype=torch.int32, device=DEVICE)
    rows = torch.zeros(batch, dtype=torch.int32, device=DEVICE)
    for got in run_both(full, host, rows, wanted, held, 0):
        assert all(slots.isnan().all() for slots in got)


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
def test_memory_that_is_not_pinned_is_refused():
    _, host, held = stores(1, 1, 4, 3, 8)
    one = torch.zeros(1, 1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="cannot be accessed"):
        fetch_triton(host[0].clone(), host[1], one[0], one, *held, 0)


def simulate(held, may, keep):
    """New contents of a row's slots and what is fetched, in plain lists: the rule of `plan_fetch`."""
    staying = {column for column, usable in zip(held, may, strict=True) if usable and column in keep}
    arriving = iter([column for column in keep if column not in staying])
    wanted = [
        next(arriving, -1) if usable and column not in staying else -1 for column, usable in zip(held, may, strict=True)
    ]
    return [column if column in staying else w for column, w in zip(held, wanted, strict=True)], wanted


def padded(rows, width, dtype):
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("operations", OPERATIONS)
@pytest.mark.parametrize("columns,shares", [(30, (0.3, 1.0, 0.0)), (41, (0.5, 0.1, 0.7)), (3, (0.4, 0.4, 0.4))])
def test_reading_through_slots_equals_reading_the_whole_store(operations, columns, shares, fresh_memory):
    """Random keeps, step after step: each row has its own text columns, budget and, as beams do, its own full row."""
    fetch, plan, place = OPERATIONS[operations]
    rng = random.Random(columns)
    batch, heads, dim = len(shares), 2, 8
    text = [sorted(rng.sample(range(columns), rng.randint(0, columns // 3))) for _ in shares]
    visual = [sorted(set(range(columns)) - set(t)) for t in text]
    budget = [int(len(v) * share) for v, share in zip(visual, shares, strict=True)]
    first, width = max(map(len, text)), max(budget) + 2
    full, host, held = stores(batch, heads, columns, first + width, dim)
    rows = torch.tensor(rng.sample(range(batch), batch), dtype=torch.int32, device=DEVICE)
    home = torch.full((batch, columns), -1, dtype=torch.int32, device=DEVICE)
    for b, t in enumerate(text):
        home[b, t] = torch.arange(len(t), dtype=torch.int32, device=DEVICE)
    slots = torch.full((batch, width), -1, dtype=torch.int32, device=DEVICE)
    source = list(host if fetch is fetch_triton else full)
    fetch(*source, rows, padded(text, first, torch.int32), *held, 0)

    contents = [[-1] * width for _ in budget]
    for step in range(12):
        # Now and then fewer columns than there is room for, or slots taken from a row, also such as hold something.
        sizes = budget if step % 4 else [rng.randint(0, n) for n in budget]
        keep = [sorted(rng.sample(v, n)) for v, n in zip(visual, sizes, strict=True)]
        may = [[w < n for w in range(width)] for n in budget]
        if step % 3 == 2:
            may = [rng.sample([True] * len(k) + [False] * (width - len(k)), width) for k in keep]
        if carried := step % 5 == 4:
            keep = [sorted(c for c in row if c >= 0) for row in contents]
            may = [[True] * width for _ in keep]
        moves = [simulate(c, m, k) for c, m, k in zip(contents, may, keep, strict=True)]
        contents = [new for new, _ in moves]
        valid = torch.tensor(may, device=DEVICE)

        wanted = plan(padded(keep, width, torch.int64), slots, valid)
        assert torch.equal(wanted, padded([w for _, w in moves], width, torch.int32))
        assert torch.equal(slots, padded(contents, width, torch.int32))
        if carried:
            assert (wanted == -1).all()
        fetch(*source, rows, wanted, *held, first)

        read = [sorted(t + k) for t, k in zip(text, keep, strict=True)]
        index = padded(read, columns + 1, torch.int32)
        found = place(index, slots, home, first)
        assert found.dtype == torch.int32 and torch.equal(found >= 0, index >= 0)
        for b, columns_read in enumerate(read):
            at = found[b, : len(columns_read)].long()
            for whole, part in zip(full, held, strict=True):
                assert torch.equal(part[b, :, at], whole[rows[b], :, columns_read])


@pytest.mark.parametrize("columns,width", [(90, 33), (3000, 888)])
def test_slot_kernels_equal_the_references(columns, width, fresh_memory):
    g = torch.Generator().manual_seed(columns)
    budget = torch.tensor([0, 1, width // 2, width])[:, None]
    valid = torch.arange(width).expand(4, -1) < budget
    slots = torch.full((4, width), -1, dtype=torch.int32)
    home = torch.full((4, columns), -1, dtype=torch.int32)
    home[:, columns - 7 :] = torch.arange(7, dtype=torch.int32)
    valid, slots, home = (t.to(DEVICE) for t in (valid, slots, home))
    for _ in range(3):
        order = torch.rand(4, columns - 7, generator=g).argsort(1)[:, :width]
        keep = order.where(torch.arange(width) < budget, columns).sort(1).values
        keep = keep.where(keep < columns, -1).to(DEVICE)
        reference, kernel = slots.clone(), slots.clone()
        assert torch.equal(plan_fetch_triton(keep, kernel, valid), plan_fetch_torch(keep, reference, valid))
        assert torch.equal(kernel, reference)
        slots = reference
        index = torch.cat([keep.int(), home.new_tensor([[columns - 2, 0, columns - 8, -1]]).expand(4, -1)], dim=1)
        want = place_columns_torch(index, slots, home, 7)
        assert torch.equal(place_columns_triton(index, slots, home, 7), want)


@pytest.mark.parametrize("place_columns", [place_columns_torch, place_columns_triton])
def test_columns_that_are_nowhere_have_no_place(place_columns):
    home = torch.tensor([[0, -1, -1, 1, -1]], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([[4, -1]], dtype=torch.int32, device=DEVICE)
    index = torch.tensor([[0, 2, 3, 4, -1]], dtype=torch.int32, device=DEVICE)
    assert place_columns(index, slots, home, 6).tolist() == [[0, -1, 1, 6, -1]]


@pytest.mark.parametrize("operations", OPERATIONS)
def test_no_columns_to_keep(operations):
    _, plan_fetch, place_columns = OPERATIONS[operations]
    slots = torch.empty(2, 0, dtype=torch.int32, device=DEVICE)
    assert plan_fetch(slots.long(), slots, slots.bool()).shape == (2, 0)
    home = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32, device=DEVICE)
    index = torch.tensor([[0, 1]], dtype=torch.int32, device=DEVICE).expand(2, -1)
    assert place_columns(index, slots, home, 2).tolist() == home.tolist()


def test_references_trace():
    slots = torch.tensor([[5, 3, -1], [0, 1, 2]], dtype=torch.int32, device=DEVICE)
    keep = torch.tensor([[2, 5, 6], [1, -1, -1]], device=DEVICE)
    home = torch.full((2, 7), -1, dtype=torch.int32, device=DEVICE)
    full, _, held = stores(2, 1, 7, 4, 8)

    def step(keep, slots, held):
        wanted = plan_fetch_torch(keep, slots, keep >= 0)
        fetch_torch(*full, torch.zeros(2, dtype=torch.int32, device=DEVICE), wanted, *held, 1)
        return wanted, place_columns_torch(keep.int(), slots, home, 1), slots, *held

    def fresh():
        return keep, slots.clone(), [h.clone() for h in held]

    traced = torch.compile(step, fullgraph=True, backend="eager")(*fresh())
    torch.testing.assert_close(traced, step(*fresh()), atol=0, rtol=0, equal_nan=True)


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
def test_a_captured_step_follows_its_inputs_and_never_waits():
    full, host, held = stores(2, 2, 50, 14, 64, torch.bfloat16)
    rows = torch.tensor([1, 0], dtype=torch.int32, device=DEVICE)
    home = torch.full((2, 50), -1, dtype=torch.int32, device=DEVICE)
    slots = torch.full((2, 12), -1, dtype=torch.int32, device=DEVICE)
    scores = torch.randn(2, 50, device=DEVICE)
    budget = torch.tensor([12, 5], dtype=torch.int32, device=DEVICE)
    valid = torch.arange(12, device=DEVICE) < budget[:, None]

    def step():
        keep = top_columns(scores, scores == scores, budget, 12)
        fetch(*host, rows, plan_fetch(keep, slots, valid), *held, 2)
        return keep, place_columns(keep.int(), slots, home, 2)

    step()  # the first call compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            keep, place = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(5):
        scores.copy_(torch.randn_like(scores))
        graph.replay()
        for b, n in enumerate(budget.tolist()):
            assert keep[b, :n].tolist() == sorted(scores[b].argsort(descending=True)[:n].tolist())
            for whole, part in zip(full, held, strict=True):
                assert torch.equal(part[b, :, place[b, :n].long()], whole[rows[b], :, keep[b, :n]])
