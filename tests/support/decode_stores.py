"""Stores to decode from, what sparse decode attention is measured by, and how close it has to come."""

from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch

from dycoke.ops.attend.sparse_decode import Reads, Store, sparse_decode_observed_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")
PARTS = [each.name for each in fields(Store) if each.init]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def on_gpu(few, many):
    """Fewer cases where each is compiled: on a GPU the kernels' variants, not the cases, take the time."""
    return few if torch.cuda.is_available() else many


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
