"""A tiny language model, and one prompt of it with visual slots, for tests of what surrounds decoding."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.methods import DynamicPruning
from tests.llava import tiny

CONFIG = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
PLAN = dycoke.Plan(decode=DynamicPruning(2, 0.5))
PROMPT = 12
VISUAL = torch.zeros(1, PROMPT, dtype=torch.bool)
VISUAL[:, 3:9] = True


def qwen(config: Qwen2Config | None = None) -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM(config or Qwen2Config(**CONFIG)).eval()
    tiny.fill_randomly(model)
    return model


def embeds(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, PROMPT, 32, generator=torch.Generator().manual_seed(seed))


def generate(model, **options) -> torch.Tensor:
    return model.generate(inputs_embeds=embeds(), max_new_tokens=4, do_sample=False, eos_token_id=None, **options)
