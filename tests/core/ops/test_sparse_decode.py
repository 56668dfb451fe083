"""Sparse decode attention: the reference against a loop in float64, the kernels against the reference."""

import math

import pytest
import torch

from dycoke.ops.attend import sparse_decode_triton as kernels
from dycoke.ops.attend.sparse_decode import (
    Reads,
    Store,
    sparse_decode,
    sparse_decode_observed,
    sparse_decode_observed_torch,
    sparse_decode_torch,
)
from dycoke.ops.attend.sparse_decode_triton import Tiling, sparse_decode_observed_triton, sparse_decode_triton
from tests.cases import every_pair, folded
from tests.support.decode_stores import (
    DEVICE,
    PARTS,
    as_double,
    assert_observed,
    needs_gpu,
    on_gpu,
    poisoned,
    subject,
)


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


@folded("dense", [False, True])
@folded("swapped", [False, True])
@folded("b,g,d,s", [(1, 1, 8, 1), (2, 7, 20, 5), (3, 4, 16, 33)])
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


# b, h, g, d, s, n, t
SIZES = [
    (1, 1, 1, 64, 1, 1, 1),
    (2, 2, 4, 128, 5, 3, 7),
    (3, 2, 7, 64, 33, 17, 40),
    (2, 3, 1, 128, 130, 101, 3),
    (1, 2, 7, 128, 301, 129, 33),
]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ONE_ROW, ROWS_16, ROWS_64 = ((b, 4, 7, 128, 2990, 918, 64) for b in (1, 16, 64))  # 64 rows: one program each
REAL_CASES = [(size, torch.bfloat16, dense, dense) for size in (ONE_ROW, ROWS_16) for dense in (False, True)]
REAL_CASES += [((5, 2, 7, 64, 6291, 1813, 1000), torch.float32, False, True), (ROWS_64, torch.float16, True, True)]


@folded("size,dtype,dense,swapped", on_gpu(REAL_CASES, every_pair(SIZES, FLOATS, [False, True], [False, True])))
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
        out, attn = kernels._decode(*case, observed=True, tiling=Tiling(block, 0, chunk, stages=2))
    assert_observed(case, out, attn)


@folded(
    "joint,dense",
    [(joint, joint % 4 > 1 and not torch.cuda.is_available()) for joint in (1, 2, 7, 8, *on_gpu([], [3, 4, 5, 6]))],
)
def test_any_number_of_joint_parts(joint, dense):
    """Rows of different lengths: blocks and parts begin in the prompt or the tail, hold the end of both, or nothing."""
    case = subject(4, 2, 3, 64, 101, 77, 70, dense=dense, swapped=joint % 2 == 0, seed=joint)
    case[1].tail_keys.mul_(4)
    with poisoned():
        out, attn = kernels._decode(*case, observed=True, tiling=Tiling(16, joint))
        unobserved, _ = kernels._decode(*case, observed=False, tiling=Tiling(16, joint))
    assert_observed(case, out, attn)
    assert torch.equal(unobserved, out)


@folded("size", SIZES[-1:] + on_gpu([], SIZES[:-1]))
@folded("dtype,dense", [(torch.bfloat16, False), *on_gpu([], [(torch.bfloat16, True), (torch.float32, False)])])
def test_one_program_for_all_columns(size, dtype, dense, planning):
    """What a large batch takes: with a single multiprocessor, every batch is one."""
    planning("processors", lambda device: 1)
    case = subject(max(2, size[0]), *size[1:], dense=dense, swapped=dense, dtype=dtype, seed=sum(size))
    assert kernels._tiling(case[0].device, dtype == torch.float32, 2 * size[1], 10, 1, not dense).joint == 1
    with poisoned():
        out, attn = sparse_decode_observed_triton(*case)
        unobserved = sparse_decode_triton(*case)
    assert_observed(case, out, attn)
    assert torch.equal(unobserved, out)


def test_tilings_by_batch_size(planning):
    """The measured optima of an H200, four key heads a row; the smallest batch and the smallest reads."""
    planning("processors", lambda device: 132)
    half, single = (DEVICE, False), (DEVICE, True)
    assert kernels._tiling(*half, 256, 918, 64, True) == Tiling(64, 1)
    assert kernels._tiling(*half, 256, 2990, 64, False) == Tiling(64, 1)
    assert kernels._tiling(*single, 256, 2990, 64, False) == Tiling(16, 1)
    assert kernels._tiling(*half, 64, 918, 64, True) == Tiling(32, 6)
    assert kernels._tiling(*half, 64, 2990, 64, False) == Tiling(64, 4)
    assert kernels._tiling(*half, 64, 1, 1, True) == Tiling(32, 1)
    assert kernels._tiling(*half, 4, 918, 64, True) == Tiling(32, 0, 32)
    assert kernels._tiling(*half, 4, 2990, 64, False) == Tiling(64, 0, 64)
    assert kernels._tiling(*half, 1, 0, 64, True) == Tiling(32, 0, 32)


def test_an_index_without_columns():
    query, store, reads, scale = subject(n=0)
    with poisoned():
        out, attn = sparse_decode_observed_triton(query, store, reads, scale)
    assert_observed((query, store, reads, scale), out, attn)


def test_layouts_the_kernel_cannot_read():
    with pytest.raises(ValueError, match="head dim 48"):
        sparse_decode_triton(*subject(d=48))
    query, store, reads, scale = subject()
    parts = {name: getattr(store, name) for name in PARTS}
    parts["tail_values"] = parts["tail_values"].mT.contiguous().mT
    with pytest.raises(ValueError, match="contiguous last axis"):
        sparse_decode_triton(query, Store(**parts), reads, scale)


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
