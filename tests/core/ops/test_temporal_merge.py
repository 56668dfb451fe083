"""Temporal merging: the reference against a loop in float64, the kernel against the reference."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dycoke import budget
from dycoke.ops.tokens.temporal_merge import temporal_merge, temporal_merge_torch, window_similarity
from dycoke.ops.tokens.temporal_merge_triton import temporal_merge_triton
from tests.cases import every_pair, folded
from tests.support import naive

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def frames(t, n, d, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((t, n, d)).astype(np.float32)).to(dtype)


@folded("t", [1, 2, 3, 4, 5, 6, 7, 8, 11, 32])
@folded("k", [0.0, 0.3, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_reference_equals_the_loop(t, k, dtype):
    x = frames(t, 9, 16, seed=t, dtype=dtype)
    keep = budget.kept_per_frame(k, 9)
    embeds, index = temporal_merge_torch(x, keep)
    assert index.tolist() == naive.merge(x, keep)
    assert len(index) == budget.windows_count(t, 9, k)
    assert torch.equal(embeds, x.flatten(0, 1)[index]) and embeds.dtype == dtype


def test_similarity_is_fp32_for_bf16_input():
    x = frames(4, 32, 256, dtype=torch.bfloat16)
    got = window_similarity(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor(naive.similarities(x)), atol=1e-6, rtol=0)


def test_frame_3_is_compared_with_frame_2_as_it_came_in():
    """Frame 2 repeats frame 0 and is dropped whole; frame 3 repeats frame 2 but for one token: that one must stay."""
    x = frames(1, 8, 16).repeat(4, 1, 1)
    x[3, 5] = -x[2, 5]
    _, index = temporal_merge_torch(x, 1)
    assert index.tolist()[-1] == 3 * 8 + 5


def test_ties_go_to_the_lower_slot():
    x = torch.ones(4, 6, 4)
    assert temporal_merge_torch(x, 2)[1].tolist() == [*range(6), 6, 7, 12, 13, 18, 19]


@pytest.mark.parametrize("t", [1, 6, 32])
def test_length_follows_from_shapes_alone(t):
    """Meta tensors hold no data: an operation whose output length depends on content cannot run on them."""
    embeds, index = temporal_merge_torch(torch.empty(t, 196, 64, device="meta"), 58)
    assert embeds.shape == (budget.windows_count(t, 196, 0.7), 64) and index.shape == embeds.shape[:1]


class NoHostRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"), f"host read: {name}"
        return func(*args, **(kwargs or {}))


def test_no_host_read():
    x = frames(10, 16, 8)
    with NoHostRead():
        temporal_merge_torch(x, 5)
    with NoHostRead(), pytest.raises(AssertionError, match="host read"):
        x.sum().item()


SHAPES = [(1, 9, 16), (2, 16, 8), (3, 9, 70), (4, 13, 1100), (7, 9, 33), (5, 40, 64)]
MATRIX = SHAPES, [0.0, 0.7, 1.0], [torch.float32, torch.bfloat16, torch.float16]


@folded("shape,k,dtype", product(*MATRIX) if torch.cuda.is_available() else every_pair(*MATRIX))
def test_kernel_equals_the_reference(shape, k, dtype, poison_empty):
    t, n, d = shape
    x = frames(t, n, d, seed=n, dtype=dtype).to(DEVICE)
    keep = budget.kept_per_frame(k, n)
    embeds, index = temporal_merge_triton(x, keep)
    reference, slots = temporal_merge_torch(x, keep)
    assert torch.equal(index, slots) and torch.equal(embeds, reference)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_kernel_and_reference_agree_on_odd_values(value):
    x = frames(8, 12, 24).to(DEVICE)
    x[1, 3], x[6, 7] = value, value
    for got, want in zip(temporal_merge_triton(x, 4), temporal_merge_torch(x, 4), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True, atol=0, rtol=0)


def test_kernel_takes_strided_frames():
    x = frames(8, 24, 24).to(DEVICE)[:, ::2]
    assert torch.equal(temporal_merge_triton(x, 4)[1], temporal_merge_torch(x, 4)[1])


@pytest.mark.parametrize("keep", [-1, 10])
@pytest.mark.parametrize("merge", [temporal_merge, temporal_merge_torch, temporal_merge_triton])
def test_keep_out_of_range(merge, keep):
    with pytest.raises(ValueError, match=f"keep={keep}: expected 0 to 9"):
        merge(frames(8, 9, 4), keep)


def test_gradients_flow_through_the_kept_tokens():
    x = frames(4, 9, 8).requires_grad_()
    embeds, index = temporal_merge(x, 2)
    embeds.sum().backward()
    kept = torch.zeros(36).index_fill_(0, index, 1.0)
    assert torch.equal(x.grad.flatten(0, 1)[:, 0], kept)
