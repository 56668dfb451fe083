"""Row norms: the references against transformers' and torch's modules, the kernels against the references."""

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from dycoke.ops.layer import fused as norms
from dycoke.ops.layer import fused_triton as norms_triton
from tests.cases import folded
from tests.support.decode_stores import DEVICE

EPS = 1e-5
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1), (3, 20), (2, 5, 1152), (7, 3584)]


def rows(shape, dtype, seed=0):
    """Delta, residual, weight and bias; rows of very different sizes, the last of zeros."""
    random = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.linspace(-2, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    delta, residual = (torch.randn(shape, generator=random) * scale + 0.3 for _ in range(2))
    if shape[0] > 1:
        delta[-1], residual[-1] = 0, 0
    weight, bias = (torch.randn(shape[-1], generator=random) for _ in range(2))
    return tuple(each.to(DEVICE, dtype) for each in (delta, residual, weight, bias))


def assert_near(got, want, dtype):
    """Within three roundings of the largest value of a row, for `want` in float64."""
    assert got.dtype == dtype
    tolerance = 3 * max(torch.finfo(dtype).eps, 1e-6)
    error = (got.double() - want).abs().amax(-1)
    assert (error <= tolerance * want.abs().amax(-1).clamp_min(1e-3)).all(), float(error.max())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("module", [Qwen2RMSNorm, LlamaRMSNorm])
def test_the_rms_reference_is_the_module_of_transformers(module, dtype):
    delta, residual, weight, _ = rows((4, 96), dtype)
    norm = module(96, EPS).to(DEVICE, dtype)
    norm.weight.data.copy_(weight)
    with torch.no_grad():
        assert torch.equal(norms.rms_norm_torch(delta, weight, EPS), norm(delta))
        want = residual + delta
        normed, total = norms.add_rms_norm_torch(delta, residual, weight, EPS)
        assert torch.equal(total, want) and torch.equal(normed, norm(want))
    assert total.data_ptr() == delta.data_ptr()


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_layer_reference_is_the_module_of_torch(dtype):
    delta, residual, weight, bias = rows((4, 96), dtype)
    norm = nn.LayerNorm(96, EPS, device=DEVICE, dtype=dtype)
    norm.weight.data.copy_(weight), norm.bias.data.copy_(bias)
    with torch.no_grad():
        assert torch.equal(norms.layer_norm_torch(delta, weight, bias, EPS), norm(delta))
        want = residual + delta
        normed, total = norms.add_layer_norm_torch(delta, residual, weight, bias, EPS)
        assert torch.equal(total, want) and torch.equal(normed, norm(want))


@folded("dtype", FLOATS)
@folded("shape", SHAPES)
def test_the_rms_kernel_equals_the_reference(shape, dtype, poison_empty):
    delta, residual, weight, _ = rows(shape, dtype)
    want = norms.rms_norm_torch(delta.double(), weight.double(), EPS)
    assert_near(norms_triton.rms_norm_triton(delta, weight, EPS), want, dtype)
    untouched, total = residual.clone(), residual + delta
    normed, got = norms_triton.add_rms_norm_triton(delta, residual, weight, EPS)
    assert torch.equal(residual, untouched) and got.data_ptr() == delta.data_ptr()
    torch.testing.assert_close(got, total, rtol=torch.finfo(dtype).eps, atol=0)
    assert_near(normed, norms.rms_norm_torch(got.double(), weight.double(), EPS), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_the_layer_kernel_equals_the_reference(shape, dtype, poison_empty):
    delta, residual, weight, bias = rows(shape, dtype)
    exact = weight.double(), bias.double()
    want = norms.layer_norm_torch(delta.double(), *exact, EPS)
    assert_near(norms_triton.layer_norm_triton(delta, weight, bias, EPS), want, dtype)
    untouched, total = residual.clone(), residual + delta
    normed, got = norms_triton.add_layer_norm_triton(delta, residual, weight, bias, EPS)
    assert torch.equal(residual, untouched) and got.data_ptr() == delta.data_ptr()
    torch.testing.assert_close(got, total, rtol=torch.finfo(dtype).eps, atol=0)
    assert_near(normed, norms.layer_norm_torch(got.double(), *exact, EPS), dtype)


def test_rows_that_are_not_contiguous_and_none_at_all():
    hidden = torch.randn(6, 4, device=DEVICE).t()
    weight, bias = torch.randn(6, device=DEVICE), torch.randn(6, device=DEVICE)
    want = norms.layer_norm_torch(hidden, weight, bias, EPS)
    torch.testing.assert_close(norms_triton.layer_norm_triton(hidden, weight, bias, EPS), want)
    delta, residual = torch.zeros(4, 6, device=DEVICE), hidden
    torch.testing.assert_close(norms_triton.add_layer_norm_triton(delta, residual, weight, bias, EPS)[0], want)
    assert norms_triton.rms_norm_triton(hidden[:0], weight, EPS).shape == (0, 6)


@pytest.mark.parametrize(
    "delta,residual,weight,message",
    [
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(5), "weight or bias"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(4).half(), "weight or bias"),
        (torch.zeros(2, 4), torch.zeros(1, 4), torch.zeros(4), "delta of shape"),
        (torch.zeros(2, 4), torch.zeros(2, 4).half(), torch.zeros(4), "delta of shape"),
        (torch.zeros(4, 2).t(), torch.zeros(2, 4), torch.zeros(4), "contiguous"),
    ],
)
def test_what_does_not_fit_raises(delta, residual, weight, message):
    for add, last in ((norms.add_rms_norm, (weight, EPS)), (norms.add_layer_norm, (weight, weight, EPS))):
        with pytest.raises(ValueError, match=message):
            add(delta, residual, *last)
    if message == "weight or bias":
        for norm, last in ((norms.rms_norm, (weight, EPS)), (norms.layer_norm, (weight, weight, EPS))):
            with pytest.raises(ValueError, match=message):
                norm(delta, *last)
