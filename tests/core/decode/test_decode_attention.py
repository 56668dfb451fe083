"""The attention functions a pruned model runs under, where they stand for transformers' own."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

import dycoke
from dycoke.methods import DynamicPruning
from dycoke.stages.attention import pruned_name
from tests.support.decode_cases import PROMPTS
from tests.support.decode_subjects import generate, language_model, prompt


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_is_that_of_transformers(dtype, dropout, masked):
    module = language_model("qwen2").model.layers[0].self_attn.train()
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 9, 12, generator=random).to(dtype) for heads in (4, 2, 2))
    mask = torch.full((9, 9), -1e4, dtype=dtype).triu(1).expand(2, 1, 9, 9) if masked else None
    results = []
    for attend in (ALL_ATTENTION_FUNCTIONS[pruned_name("eager")], eager_attention_forward):
        torch.manual_seed(0)
        results.append(attend(module, query, key, value, mask, scaling=0.3, dropout=dropout))
    for got, want in zip(*results, strict=True):
        assert got.dtype == dtype and torch.equal(got, want)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_a_model_without_a_method_beside_one_of_its_config(backend):
    """Its steps carry no request, and their mask is all that knows of padding."""
    model, given = language_model("qwen2"), prompt(*PROMPTS["batch"])
    model.set_attn_implementation(backend)
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    want = generate(other, given, 4)
    plan = dycoke.Plan(decode=DynamicPruning(3, 0.5))
    with dycoke.attach(model, plan, visual=given.visual):
        assert other.model.layers[0].self_attn.config._attn_implementation == backend
        assert model.model.layers[0].self_attn.config._attn_implementation == pruned_name(backend)
        got = generate(other, given, 4)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
