"""Sparse decode attention: the reference against a loop in float64, the kernels against the reference."""

import math
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch

from dycoke.cache import DecodeRequest
from dycoke.ops import sparse_decode as dispatch
from dycoke.ops import sparse_decode_triton as kernels
from dycoke.ops.sparse_decode import (
    Reads,
    Scratch,
    Store,
    sparse_decode,
    sparse_decode_observed,
    sparse_decode_observed_torch,
    sparse_decode_torch,
)
from dycoke.ops.sparse_decode_triton import Plan, sparse_decode_observed_triton, sparse_decode_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")
PARTS = [each.name for each in fields(Store) if each.init]


def on_gpu(few, many):
    """Fewer cases where each is compiled: on a GPU the kernels' variants, not the cases, take the time."""
    return few if torch.cuda.is_available() else many


@pytest.fixture
def planning(monkeypatch):
    """Replace a function the plans come from. What was worked out before or meanwhile is forgotten."""

    def replace(name, function):
        monkeypatch.setattr(kernels, name, function)
        kernels._launch.cache_clear()

    yield replace
    monkeypatch.undo()
    kernels._launch.cache_clear()


def subject(
    b=2, h=2, g=3, d=64, s=33, n=11, t=5, *, dense=False, swapped=False, dtype=torch.float32, seed=0, device=DEVICE
):
    """Query, store and reads of random numbers; NaN wherever nothing may be read, rows drawn with repetition.

    `swapped` lays the prompt's keys and the tail's values out as [P, S, H, D].
    The last row reads no prompt column, the first row all N of them.
    """
    random = torch.Generator().manual_seed(seed)
    n = s if dense else min(n, s)

    def stored(rows, columns, swapped=False):
        if swapped:
            return torch.randn(rows, columns, h, d, generator=random).transpose(1, 2)
        return torch.randn(rows, h, columns, d, generator=random)

    count = torch.randint(0, n + 1, (b,), generator=random)
    count[-1], count[0] = 0, n
    filled = torch.randint(1, t + 1, (b,), generator=random)
    rows = torch.randint(0, b, (b,), generator=random)
    index = torch.stack([torch.randperm(s, generator=random)[:n] for _ in range(b)])
    index = index.masked_fill(torch.arange(n) >= count[:, None], -1)
    store = [stored(b, s, swapped), stored(b, s), stored(b, t), stored(b, t, swapped)]
    for tensor in store[2:]:
        tensor.transpose(1, 2)[torch.arange(t) >= filled[:, None]] = NAN
    read = torch.zeros(b, s, dtype=torch.bool)  # of the stored rows, by any batch row
    for row in range(b):
        read[rows[row], index[row, : count[row]] if not dense else slice(s - int(count[row]), s)] = True
    for tensor in store[:2]:
        tensor.transpose(1, 2)[~read] = NAN
    query = torch.randn(b, h * g, d, generator=random).to(device, dtype)
    store = Store(*(x.to(device, dtype) for x in store), rows.int().to(device), filled.int().to(device))
    return query, store, Reads(count.int().to(device), None if dense else index.int().to(device)), d**-0.5


def as_double(query, store, reads, scale):
    floats = (x.double() for x in (store.prompt_keys, store.prompt_values, store.tail_keys, store.tail_values))
    return query.double(), Store(*floats, store.rows, store.filled), reads, scale


def loop(query, store, reads, scale):
    """Output and attention in float64, one row and one head at a time, from the columns written out in a list."""
    size, group = store.prompt_keys.shape[2], query.shape[1] // store.prompt_keys.shape[1]
    out = torch.zeros(query.shape, dtype=torch.float64)
    attn = torch.zeros(len(query), size, dtype=torch.float64)
    for b, row in enumerate(store.rows.tolist()):
        count, filled = int(reads.count[b]), int(store.filled[b])
        columns = list(range(size - count, size)) if reads.index is None else reads.index[b, :count].tolist()
        for head in range(query.shape[1]):
            kv = head // group
            keys = [store.prompt_keys[row, kv, c] for c in columns] + list(store.tail_keys[b, kv, :filled])
            values = [store.prompt_values[row, kv, c] for c in columns] + list(store.tail_values[b, kv, :filled])
            weights = [math.exp(float(query[b, head].double() @ k.double()) * scale) for k in keys]
            for weight, value in zip(weights, values, strict=True):
                out[b, head] += weight / sum(weights) * value.double().cpu()
            for column, weight in zip(columns, weights, strict=False):
                attn[b, column] += weight / sum(weights) / query.shape[1]
    return out, attn


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("b,g,d,s", [(1, 1, 8, 1), (2, 7, 20, 5), (3, 4, 16, 33)])
def test_reference_equals_the_loop(b, g, d, s, dense, swapped):
    case = subject(b, 2, g, d, s, dense=dense, swapped=swapped, dtype=torch.float64)
    out, attn = sparse_decode_observed_torch(*case)
    want, want_attn = loop(*case)
    assert out.dtype == attn.dtype == torch.float64
    torch.testing.assert_close(out.cpu(), want, atol=1e-12, rtol=0)
    torch.testing.assert_close(attn.cpu(), want_attn, atol=1e-12, rtol=0)
    assert torch.equal(attn == 0, want_attn.to(DEVICE) == 0)
    assert torch.equal(sparse_decode_torch(*case), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reference_computes_half_precision_in_fp32(dtype):
    case = subject(g=7, dtype=dtype)
    out, attn = sparse_decode_observed_torch(*case)
    exact, exact_attn = sparse_decode_observed_torch(*as_double(*case))
    assert out.dtype == dtype and attn.dtype == torch.float32
    assert (out.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()  # the final rounding
    torch.testing.assert_close(attn.double(), exact_attn, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dense", [False, True])
def test_a_step_traces(dense):
    query, store, reads, scale = subject(dense=dense, device="cpu")  # where the reference runs, which is what traces
    parts = [getattr(store, name) for name in PARTS]

    def step(query, count, index, *parts):
        return sparse_decode_observed(query, Store(*parts), Reads(count, index), scale), sparse_decode(
            query, Store(*parts), Reads(count, index), scale
        )

    traced = torch.compile(step, fullgraph=True, backend="eager")
    got, want = (f(query, reads.count, reads.index, *parts) for f in (traced, step))
    for a, b in zip((*got[0], got[1]), (*want[0], want[1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"query": (2, 5, 64)}, "heads and dim"),
        ({"query": (2, 6, 32)}, "heads and dim"),
        ({"query": (2, 6)}, r"expected \[B, Hq, D\]"),
        ({"prompt_values": (2, 2, 32, 64)}, "values"),
        ({"tail_values": (2, 2, 4, 64)}, "values"),
        ({"tail_keys": (1, 2, 5, 64), "tail_values": (1, 2, 5, 64)}, "tail"),
        ({"rows": (3,)}, "rows"),
        ({"filled": (2, 1)}, "filled"),
        ({"count": (1,)}, "count"),
        ({"index": (3, 11)}, "index"),
    ],
)
def test_shapes_that_do_not_fit(wrong, message):
    query, store, reads, scale = subject()
    given = {name: getattr(store, name) for name in PARTS} | {"count": reads.count, "index": reads.index}
    given |= {"query": query} | {name: torch.zeros(shape, device=DEVICE) for name, shape in wrong.items()}
    parts = [given[name] for name in PARTS]
    with pytest.raises(ValueError, match=message):
        sparse_decode(given["query"], Store(*parts), Reads(given["count"], given["index"]), scale)


@contextmanager
def poisoned():
    """Fill torch.empty with NaN: what a kernel leaves unwritten must not look right."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_close(got, want):
    """fp32 within 1e-5 of the largest value; half precision within its epsilon of each row's length.

    Weights and output are each rounded once, which Triton's interpreter does towards zero.
    """
    assert got.shape == want.shape and not got.isnan().any()
    error = got.double() - want
    if got.dtype == torch.float32:
        assert error.abs().max() <= 1e-5 * want.abs().max()
    else:
        error, want = error.flatten(1).norm(dim=1), want.flatten(1).norm(dim=1)
        assert (error <= torch.finfo(got.dtype).eps * want).all(), float((error / want).max())


def assert_observed(case, out, attn):
    """Output and attention of a case against the reference in float64."""
    exact, exact_attn = sparse_decode_observed_torch(*as_double(*case))
    assert_close(out, exact)
    assert attn.dtype == torch.float32
    assert_close(attn, exact_attn)
    assert torch.equal(attn == 0, exact_attn == 0)
    assert (attn.sum(1) <= 1 + 1e-5).all()


# b, h, g, d, s, n, t
SIZES = [
    (1, 1, 1, 64, 1, 1, 1),
    (2, 2, 4, 128, 5, 3, 7),
    (3, 2, 7, 64, 33, 17, 40),
    (2, 3, 1, 128, 130, 101, 3),
    (1, 2, 7, 128, 301, 129, 33),
]
FLOATS = [(torch.float32, dense, swapped) for dense in (False, True) for swapped in (False, True)]
FLOATS += [(dtype, dense, dense) for dtype in (torch.bfloat16, torch.float16) for dense in (False, True)]
ONE_ROW, ROWS_16, ROWS_64 = ((b, 4, 7, 128, 2990, 918, 64) for b in (1, 16, 64))  # 64 rows: one program each
REAL_CASES = [(size, torch.bfloat16, dense, dense) for size in (ONE_ROW, ROWS_16) for dense in (False, True)]
REAL_CASES += [((5, 2, 7, 64, 6291, 1813, 1000), torch.float32, False, True), (ROWS_64, torch.float16, True, True)]


@pytest.mark.parametrize(
    "size,dtype,dense,swapped",
    on_gpu(REAL_CASES, [(size, *floats) for size in SIZES for floats in FLOATS]),
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, tuple) else None,
)
def test_kernels_equal_the_reference(size, dtype, dense, swapped):
    case = subject(*size, dense=dense, swapped=swapped, dtype=dtype, seed=sum(size))
    with poisoned():
        out, attn = sparse_decode_observed_triton(*case)
        unobserved = sparse_decode_triton(*case)
    assert out.dtype == unobserved.dtype == dtype
    assert_observed(case, out, attn)
    assert torch.equal(unobserved, out)


@pytest.mark.parametrize("block,chunk", [(16, 1104), (16, 16), (32, 544)])
def test_any_number_of_separate_parts(block, chunk):
    """One part, two, and more than the second pass holds at once, most of them empty."""
    case = subject(2, 1, 2, 64, 1100, 1090, 70, seed=4)
    case[1].tail_keys.mul_(4)  # so that what comes last outweighs what came before
    with poisoned():
        out, attn = kernels._decode(*case, observed=True, plan=Plan(block, 0, chunk, stages=2))
    assert_observed(case, out, attn)


@pytest.mark.parametrize("joint", range(1, 9))
@pytest.mark.parametrize("dense", on_gpu([False], [False, True]))
def test_any_number_of_joint_parts(joint, dense):
    """Rows of different lengths: blocks and parts begin in the prompt or the tail, hold the end of both, or nothing."""
    case = subject(4, 2, 3, 64, 101, 77, 70, dense=dense, swapped=joint % 2 == 0, seed=joint)
    case[1].tail_keys.mul_(4)
    with poisoned():
        out, attn = kernels._decode(*case, observed=True, plan=Plan(16, joint))
        unobserved, _ = kernels._decode(*case, observed=False, plan=Plan(16, joint))
    assert_observed(case, out, attn)
    assert torch.equal(unobserved, out)


@pytest.mark.parametrize("size", SIZES[-1:] + on_gpu([], SIZES[:-1]), ids=lambda x: "-".join(map(str, x)))
@pytest.mark.parametrize(
    "dtype,dense", [(torch.bfloat16, False), *on_gpu([], [(torch.bfloat16, True), (torch.float32, False)])]
)
def test_one_program_for_all_columns(size, dtype, dense, planning):
    """What a large batch takes: with a single multiprocessor, every batch is one."""
    planning("_processors", lambda device: 1)
    case = subject(max(2, size[0]), *size[1:], dense=dense, swapped=dense, dtype=dtype, seed=sum(size))
    assert kernels._plan(case[0].device, dtype == torch.float32, 2 * size[1], 10, 1, not dense).joint == 1
    with poisoned():
        out, attn = sparse_decode_observed_triton(*case)
        unobserved = sparse_decode_triton(*case)
    assert_observed(case, out, attn)
    assert torch.equal(unobserved, out)


def test_plans_by_batch_size(planning):
    """The measured optima of an H200, four key heads a row; the smallest batch and the smallest reads."""
    planning("_processors", lambda device: 132)
    half, single = (DEVICE, False), (DEVICE, True)
    assert kernels._plan(*half, 256, 918, 64, True) == Plan(64, 1)
    assert kernels._plan(*half, 256, 2990, 64, False) == Plan(64, 1)
    assert kernels._plan(*single, 256, 2990, 64, False) == Plan(16, 1)
    assert kernels._plan(*half, 64, 918, 64, True) == Plan(32, 6)
    assert kernels._plan(*half, 64, 2990, 64, False) == Plan(64, 4)
    assert kernels._plan(*half, 64, 1, 1, True) == Plan(32, 1)
    assert kernels._plan(*half, 4, 918, 64, True) == Plan(32, 0, 32)
    assert kernels._plan(*half, 4, 2990, 64, False) == Plan(64, 0, 64)
    assert kernels._plan(*half, 1, 0, 64, True) == Plan(32, 0, 32)


def test_an_index_without_columns():
    query, store, reads, scale = subject(n=0)
    with poisoned():
        out, attn = sparse_decode_observed_triton(query, store, reads, scale)
    assert_observed((query, store, reads, scale), out, attn)


def test_scratch_serves_calls_of_any_shape_in_turn(monkeypatch):
    """Nothing is allocated the second time, whatever was left behind does no harm, and counters are back at zero."""
    one, other = subject(2, 2, 3, 64, 101, 77, 20, seed=1), subject(3, 2, 3, 64, 70, 50, 40, dense=True, seed=2)
    calls = [(case, plan) for plan in (Plan(16, 4), Plan(16, 0, 32), Plan(16, 1)) for case in (one, other, one)]
    want = [kernels._decode(*case, observed=True, plan=plan) for case, plan in calls]
    scratch = Scratch()
    for _ in range(2):
        for (case, plan), (out, attn) in zip(calls, want, strict=True):
            got = kernels._decode(*case, scratch, observed=True, plan=plan)
            assert torch.equal(got[0], out) and torch.equal(got[1], attn)
            for (name, _), buffer in scratch._buffers.items():
                assert name != "done" or not buffer.any()
                if name != "done":
                    buffer.fill_(NAN)
        monkeypatch.setattr(Scratch, "_keep", None)


def test_a_request_keeps_its_scratch_from_step_to_step(monkeypatch, planning):
    """Of kernels that run for every tensor: a step allocates what they need at the first layer, and once it grew."""
    planning("_processors", lambda device: 132)  # which deals out the tail separately
    monkeypatch.setattr(dispatch, "_has_kernel", lambda query: True)
    made, keep = [], Scratch._keep
    monkeypatch.setattr(Scratch, "_keep", lambda self, name, buffer: made.append(name) or keep(self, name, buffer))
    random = torch.Generator().manual_seed(3)

    def normal(*sizes):
        return torch.randn(sizes, generator=random).to(DEVICE)

    request = DecodeRequest(None, 2, (2, 40), torch.device(DEVICE), None, None, tail=2)
    for layer in range(2):
        request.fill(layer, normal(2, 2, 40, 64), normal(2, 2, 40, 64))
    expected = [True, False, False, True, False]
    for step, grows in enumerate(expected):
        if step == 3:
            request.reserve(100)  # more parts of the tail
            request.reorder(torch.tensor([1, 1]))
        request.advance()
        for layer in range(2):
            if step == 3:
                request.reorder_layer(layer, torch.tensor([1, 1]))
            request.append(layer, normal(2, 2, 1, 64), normal(2, 2, 1, 64))
            query = normal(2, 6, 1, 64)
            made.clear()
            got = request.attend(layer, query, 0.125)[:, 0]
            reads = request.columns(query.device).whole
            assert_close(got, sparse_decode_torch(*as_double(query[:, :, 0], request.store(layer), reads, 0.125)))
            assert bool(made) == (grows and layer == 0)
        request.end_step()


def test_layouts_the_kernel_cannot_read():
    with pytest.raises(ValueError, match="head dim 48"):
        sparse_decode_triton(*subject(d=48))
    query, store, reads, scale = subject()
    parts = {name: getattr(store, name) for name in PARTS}
    parts["tail_values"] = parts["tail_values"].mT.contiguous().mT
    with pytest.raises(ValueError, match="contiguous last axis"):
        sparse_decode_triton(query, Store(**parts), reads, scale)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@needs_gpu
@pytest.mark.parametrize("d,dtype,runs", [(64, torch.bfloat16, True), (48, torch.bfloat16, False)])
def test_cuda_tensors_run_the_kernels_where_there_are(d, dtype, runs, monkeypatch):
    calls = []
    real = kernels._decode
    monkeypatch.setattr(kernels, "_decode", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    case = subject(d=d, dtype=dtype)
    sparse_decode(*case)
    sparse_decode_observed(*case)
    assert len(calls) == 2 * runs


@needs_gpu
@pytest.mark.parametrize("scratch", [None, "warm", "cold"])
@pytest.mark.parametrize("plan,dense", [(Plan(64, 1), True), (Plan(32, 6), False), (Plan(64, 0, 64), True)])
def test_a_graph_follows_its_inputs_and_repeats_exactly(dense, plan, scratch, planning):
    planning("_plan", lambda *args: plan)
    shared = scratch and Scratch()
    size, options = (4, 4, 7, 128, 700, 300, 64), {"dense": dense, "dtype": torch.bfloat16}
    case, other = subject(*size, seed=1, **options), subject(*size, seed=2, **options)
    sparse_decode_observed(*case, shared if scratch == "warm" else None)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # a host read would end the capture with an error
        out, attn = sparse_decode_observed(*case, shared)
    assert shared is None or bool(shared._buffers) == (scratch == "warm")  # a capture's own memory is not kept
    query, store, reads, _ = case
    into = [query, *(getattr(store, name) for name in PARTS), reads.count, reads.index]
    query, store, reads, _ = other
    new = [query, *(getattr(store, name) for name in PARTS), reads.count, reads.index]
    for old, value in zip(into, new, strict=True):
        if old is not None:
            old.copy_(value)
    runs = []
    for _ in range(2):
        out.fill_(NAN)
        attn.fill_(NAN)
        graph.replay()
        runs.append((out.clone(), attn.clone()))
    assert_observed(other, out, attn)
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
