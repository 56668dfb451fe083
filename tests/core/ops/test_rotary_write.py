"""Rotary and the write to the KV cache: the reference against transformers' own functions, the kernel against it."""

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from dycoke.ops.layer.rotary_step import rotary_write, rotary_write_torch
from dycoke.ops.layer.rotary_step_triton import rotary_write_triton
from tests.cases import folded
from tests.support.decode_stores import DEVICE, needs_gpu, poisoned

NAN = float("nan")
SIZES = [(1, 4, 2, 64, 5), (3, 7, 1, 20, 2), (2, 2, 2, 128, 3)]  # b, hq, h, d, t


def case(b, hq, h, d, t, *, dtype=torch.float32, position=1, seed=0):
    """Arguments of `rotary_write`, all rows' projections within wider ones, tails of NaN in two layouts."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random).to(DEVICE, dtype)

    keys = torch.full((b, t, h, d), NAN, device=DEVICE, dtype=dtype).transpose(1, 2)
    values = torch.full((b, h, t, d), NAN, device=DEVICE, dtype=dtype)
    qkv = normal(b, (hq + 2 * h) * d + 8)[:, :-8]
    return qkv, normal(b, d), normal(b, d), keys, values, torch.tensor([position], device=DEVICE)


@folded("size", SIZES)
@folded("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_reference_is_what_the_model_computes(size, dtype):
    b, hq, h, d, t = size
    qkv, cos, sin, keys, values, _ = given = case(*size, dtype=dtype)
    out = rotary_write_torch(*given)
    query, key, value = qkv.reshape(b, 1, -1, d).transpose(1, 2).split([hq, h, h], dim=1)
    query, key = apply_rotary_pos_emb(query, key, cos[:, None], sin[:, None])
    assert torch.equal(out, query[:, :, 0])
    assert torch.equal(keys[:, :, 1:2], key) and torch.equal(values[:, :, 1:2], value)
    for tail in (keys, values):
        assert tail[:, :, torch.arange(t) != 1].isnan().all()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kernel_equals_the_reference(size, dtype):
    """To the last bit on a GPU; the interpreter rounds towards zero."""
    for position in range(size[-1]):
        one, two = (case(*size, dtype=dtype, position=position) for _ in range(2))
        with poisoned():
            out = rotary_write_triton(*one)
        want = rotary_write_torch(*two)
        atol = 0 if DEVICE == "cuda" else 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(out, want, atol=atol, rtol=0)
        torch.testing.assert_close(one[3], two[3], atol=atol, rtol=0, equal_nan=True)
        torch.testing.assert_close(one[4], two[4], atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (2, 8 * 64 + 1), r"qkv: expected \[2, \(Hq \+ 4\) \* 64\]"),
        (0, (3, 8 * 64), "qkv"),
        (0, (2, 4 * 64), "qkv"),
        (1, (2, 32), r"cos: expected \[2, 64\]"),
        (2, (1, 64), r"sin: expected \[2, 64\]"),
        (3, (2, 2, 64), "tails"),
        (4, (2, 2, 4, 64), "tails"),
        (5, (2,), r"position: expected \[1\]"),
    ],
)
def test_shapes_that_do_not_fit(place, shape, message):
    given = list(case(2, 4, 2, 64, 5))
    given[place] = torch.zeros(shape, device=DEVICE, dtype=given[place].dtype)
    for function in (rotary_write, rotary_write_torch, rotary_write_triton):
        with pytest.raises(ValueError, match=message):
            function(*given)


def test_an_odd_head_dimension():
    with pytest.raises(ValueError, match="D=5"):
        rotary_write(*case(1, 2, 1, 5, 2))


@needs_gpu
def test_a_graph_writes_where_the_position_says():
    given = case(4, 28, 4, 128, 8, dtype=torch.bfloat16)
    rotary_write(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = rotary_write(*given)
    for tail in given[3:5]:
        tail.fill_(NAN)
    given[5].fill_(6)
    graph.replay()
    again = case(4, 28, 4, 128, 8, dtype=torch.bfloat16, position=6)
    assert torch.equal(out, rotary_write_torch(*again))
    for tail, want in zip(given[3:5], again[3:5], strict=True):
        torch.testing.assert_close(tail, want, atol=0, rtol=0, equal_nan=True)
