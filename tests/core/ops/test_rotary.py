"""Rotary position embedding in place: the reference against transformers, the kernel against float64."""

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb as qwen2

from dycoke.ops.layer.rotary import rotate, rotate_torch
from dycoke.ops.layer.rotary_triton import rotate_triton
from tests.cases import folded
from tests.support.decode_stores import DEVICE

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def subject(batch=2, length=5, query_heads=6, heads=2, dim=16, *, shared=False, dtype=torch.float32):
    random = torch.Generator().manual_seed(dim)
    query = torch.randn(batch, length, query_heads, dim, generator=random)
    key = torch.randn(batch, length, heads, dim, generator=random)
    cos, sin = (torch.rand(1 if shared else batch, length, dim, generator=random) * 2 - 1 for _ in range(2))
    return [each.to(DEVICE, dtype) for each in (query, key, cos, sin)]


@folded("dtype", FLOATS)
@folded("shared", [False, True])
@folded("apply", [qwen2, llama])
def test_the_reference_is_what_transformers_computes(apply, shared, dtype):
    query, key, cos, sin = subject(shared=shared, dtype=dtype)
    want = apply(query, key, cos, sin, unsqueeze_dim=2)
    got = rotate_torch(query, key, cos, sin)
    for a, b, given in zip(got, want, (query, key), strict=True):
        assert torch.equal(a, b) and a.data_ptr() == given.data_ptr()


# batch, length, query heads, heads, dim: one program's heads are 16
SIZES = [(1, 1, 1, 1, 2), (2, 3, 14, 2, 64), (1, 4, 28, 4, 128), (2, 2, 3, 3, 20)]


@pytest.mark.parametrize("dtype", FLOATS)
@folded("shared", [False, True])
@folded("size", SIZES)
def test_the_kernel_equals_the_reference(size, shared, dtype):
    case = subject(*size, shared=shared, dtype=dtype)
    want = rotate_torch(*(each.double() for each in case))
    tables = [each.clone() for each in case[2:]]
    got = rotate_triton(*case)
    for a, b, given in zip(got, want, case, strict=False):
        assert a.dtype == dtype and a.data_ptr() == given.data_ptr()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=6 * max(torch.finfo(dtype).eps, 1e-6))
    assert all(torch.equal(a, b) for a, b in zip(tables, case[2:], strict=True))


def test_tables_with_gaps_between_their_columns():
    query, key, cos, sin = subject()
    wide = torch.stack([cos, sin], dim=-1)
    want = rotate_torch(query.clone(), key.clone(), cos, sin)
    got = rotate_triton(query, key, wide[..., 0], wide[..., 1])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "changed,message",
    [
        ({0: (2, 5, 6)}, r"expected \[B, S, Hq, D\]"),
        ({1: (2, 4, 2, 16)}, r"expected \[B, S, Hq, D\]"),
        ({1: (2, 5, 2, 8)}, r"expected \[B, S, Hq, D\]"),
        ({2: (2, 4, 16)}, "cos"),
        ({2: (3, 5, 16), 3: (3, 5, 16)}, "cos"),
        ({3: (1, 5, 16)}, "cos"),
    ],
)
def test_shapes_that_do_not_fit(changed, message):
    given = subject()
    for at, shape in changed.items():
        given[at] = torch.zeros(shape, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        rotate(*given)


def test_dtypes_and_layouts_that_do_not_fit():
    query, key, cos, sin = subject()
    with pytest.raises(ValueError, match="expected one"):
        rotate(query, key, cos.half(), sin)
    with pytest.raises(ValueError, match="contiguous"):
        rotate(query.transpose(1, 2).contiguous().transpose(1, 2), key, cos, sin)
