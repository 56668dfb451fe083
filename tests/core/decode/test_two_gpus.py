"""A language model spread over two GPUs decodes as on one: indices and fetches follow each layer's device."""

import pytest
import torch
from accelerate import dispatch_model
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.methods import DynamicPruning
from tests.cases import folded
from tests.llava import tiny

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

LAYERS, PROMPT = 6, 300
CONFIG = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ENDS = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}


def make() -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG)).eval()
    tiny.fill_randomly(model)
    return model


def answer(model, policy, **options):
    """Logits [steps, B, V] and the report of one batch, with left padding and rows of different visual lengths."""
    visual, real = torch.zeros(2, PROMPT, dtype=torch.bool), torch.ones(2, PROMPT, dtype=torch.long)
    visual[:, 10:280] = True
    visual[1, 100:150], real[1, :7] = False, 0
    embeds = torch.randn(2, PROMPT, 256, generator=torch.Generator().manual_seed(0))
    with dycoke.attach(model, dycoke.Plan(decode=policy), visual=visual) as run:
        out = model.generate(
            inputs_embeds=embeds.cuda(),
            attention_mask=real.cuda(),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        return torch.stack(out.logits).cpu(), run.report.cache


@folded("first_on_the_second", [1, 3, 5])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize(
    "policy",
    [
        DynamicPruning(3, 0.7),
        DynamicPruning(3, 0.7, refresh=1.0, dp_cache="host"),
        DynamicPruning(3, 0.7, "official"),
        DynamicPruning(2, 0.7, decode="random"),
    ],
    ids=["paper", "host", "official", "random"],
)
def test_decoding_is_that_of_one_gpu(policy, options, first_on_the_second):
    places = {f"model.layers.{i}": int(i >= first_on_the_second) for i in range(LAYERS)}
    want, report = answer(make().cuda(), policy, **options)
    got, spread = answer(dispatch_model(make(), ENDS | places), policy, **options)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert spread == report
