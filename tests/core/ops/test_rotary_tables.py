"""Rotary tables of a decode step: the reference against transformers' own modules, the kernel against it."""

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from dycoke.ops.layer.rotary_step import rotary_tables, rotary_tables_torch
from dycoke.ops.layer.rotary_step_triton import rotary_tables_triton
from tests.cases import folded
from tests.support.decode_stores import DEVICE, needs_gpu, poisoned

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
POSITIONS = [0, 1, 7, 2047, 6303, 32767, 131071]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}  # scales its tables


def module(kind, dim, **scaling):
    sizes = {"hidden_size": 2 * dim, "num_attention_heads": 2, "max_position_embeddings": 256}
    if kind == "llama":
        return LlamaRotaryEmbedding(LlamaConfig(**sizes)).to(DEVICE)
    rope = {"rope_type": "default", "rope_theta": 1e6} | scaling
    return Qwen2RotaryEmbedding(Qwen2Config(**sizes, rope_parameters=rope)).to(DEVICE)


@folded("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "scaling"), [("qwen2", {}), ("llama", {}), ("qwen2", YARN)], ids=str)
@folded("cast", [False, True])
def test_reference_is_what_the_model_computes(kind, scaling, dtype, cast):
    rotary = module(kind, 20, **scaling)
    rotary = rotary.to(dtype) if cast else rotary
    positions = torch.tensor(POSITIONS, device=DEVICE)
    want = rotary(torch.zeros(1, dtype=dtype, device=DEVICE), positions[:, None])
    ours = rotary_tables_torch(positions, rotary.inv_freq, rotary.attention_scaling, dtype)
    assert rotary.attention_scaling != 1 or not scaling
    for table, of in zip(ours, want, strict=True):
        assert table.dtype == dtype and torch.equal(table, of[:, 0])


@folded("half", [8, 10, 64])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@folded("shifted", [False, True])
def test_kernel_equals_the_reference(half, dtype, shifted):
    """But for the last bit of an angle's cosine: libraries differ in it."""
    positions = torch.tensor(POSITIONS, device=DEVICE)
    shift = torch.arange(len(POSITIONS), device=DEVICE)[:, None] * 3 if shifted else None
    frequencies = 1e6 ** -(torch.arange(half, device=DEVICE) / half)
    given = positions, frequencies, 1.25, dtype, shift
    with poisoned():
        ours = rotary_tables_triton(*given)
    want = rotary_tables_torch(*given)
    for table, of in zip(ours, want, strict=True):
        assert table.shape == (len(POSITIONS), 2 * half) and table.dtype == dtype
        torch.testing.assert_close(table, of, atol=4 * torch.finfo(dtype).eps, rtol=0)
    assert not torch.equal(*want)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (2, 1), r"positions: expected \[B\], got shape \(2, 1\)"),
        (1, (2, 4), r"frequencies: expected \[D / 2\], got shape \(2, 4\)"),
        (4, (2,), r"shift: expected \[2, 1\], got shape \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit(place, shape, message):
    given = [torch.zeros(2, dtype=torch.int64), torch.ones(4), 1.0, torch.float32, torch.zeros(2, 1, dtype=torch.int64)]
    given[place] = torch.zeros(shape)
    for function in (rotary_tables, rotary_tables_torch, rotary_tables_triton):
        with pytest.raises(ValueError, match=message):
            function(*given)


@needs_gpu
def test_every_position_of_a_long_context():
    """The angles are exact products, and so the tables are torch's to a bit or two of fp32."""
    positions = torch.arange(131072, device="cuda")
    frequencies = 1e6 ** -(torch.arange(64, device="cuda") / 64)
    for ours, want in zip(
        rotary_tables(positions, frequencies, 1.0, torch.float32),
        rotary_tables_torch(positions, frequencies, 1.0, torch.float32),
        strict=True,
    ):
        assert (ours - want).abs().max() < 1e-6
