"""The middle of a gated MLP: the reference against eager torch, the kernel against float64."""

import pytest
import torch
from torch.nn import functional

from dycoke.ops.layer.fused import silu_mul, silu_mul_torch
from dycoke.ops.layer.fused_triton import silu_mul_triton
from tests.support.decode_stores import DEVICE

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def subject(size, dtype):
    random = torch.Generator().manual_seed(size)
    return [(4 * torch.randn(3, size, generator=random)).to(DEVICE, dtype) for _ in range(2)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_reference_is_what_modules_compute(dtype):
    gate, up = subject(37, dtype)
    want = functional.silu(gate) * up
    got = silu_mul_torch(gate, up)
    assert torch.equal(got, want) and got.data_ptr() == gate.data_ptr()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 37, 1500])
def test_the_kernel_equals_the_reference(size, dtype):
    gate, up = subject(size, dtype)
    kept, want = up.clone(), functional.silu(gate.double()) * up.double()
    got = silu_mul_triton(gate, up)
    assert got.dtype == dtype and got.data_ptr() == gate.data_ptr() and torch.equal(up, kept)
    tolerance = 3 * max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=1e-6)


def test_nothing_at_all():
    assert silu_mul(torch.zeros(0, 4, device=DEVICE), torch.zeros(0, 4, device=DEVICE)).shape == (0, 4)


@pytest.mark.parametrize(
    "up", [torch.zeros(4, 3), torch.zeros(3, 4).half(), torch.zeros(4, 3).t()], ids=["shape", "dtype", "strides"]
)
def test_what_does_not_fit_raises(up):
    with pytest.raises(ValueError, match="contiguous tensors of one shape"):
        silu_mul(torch.zeros(3, 4), up)
