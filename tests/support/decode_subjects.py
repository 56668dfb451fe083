"""Tiny random language models, Qwen2 with shared key heads and Llama without, and prompts of text and visuals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.llava import tiny

VOCABULARY, DIM, LAYERS = 96, 48, 5
FAMILIES = ("qwen2", "llama")


def language_model(family: str, *, seed: int = 0, observer: int | None = None, gain: float = 1.0) -> nn.Module:
    """A causal language model in evaluation mode that never stops by itself.

    gain: queries of layer `observer` are scaled by it. A random model attends to everything alike, so that successive
    steps differ by nothing; sharper attention moves from step to step.
    """
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": DIM,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if family == "qwen2" else 4,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    config, make = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[family]
    model = make(config(**shape)).eval()
    tiny.fill_randomly(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "norm" in name:
                weight.copy_(1 + 0.2 * torch.randn(weight.shape, generator=generator))
        model.lm_head.weight.mul_(0.25)  # logits of about 1, so that fp32 itself rounds well below 1e-5
        if observer is not None:
            for weight in model.model.layers[observer].self_attn.q_proj.parameters():
                weight.mul_(gain)
    return model


@dataclass
class Prompt:
    """A left-padded batch: embeds [B, S, D], mask [B, S] int64, and which slots are visual, bool [B, S]."""

    embeds: Tensor
    mask: Tensor
    visual: Tensor

    def row(self, number: int) -> tuple[int, Tensor, list[int]]:
        """A row as it is without padding: the slots it begins after, its embeds [S', D], and its visual columns."""
        padding = int((self.mask[number] == 0).sum())
        columns = self.visual[number, padding:].nonzero().flatten().tolist()
        return padding, self.embeds[number, padding:], columns


def prompt(*rows: str, seed: int = 0) -> Prompt:
    """Rows of slots written as letters, "t" text and "v" visual: "ttvvvvt"; padded slots hold numbers to trip over."""
    generator = torch.Generator().manual_seed(seed)
    width = max(map(len, rows))
    embeds = torch.randn(len(rows), width, DIM, generator=generator)
    padded = [row.rjust(width, "-") for row in rows]
    mask = torch.tensor([[int(slot != "-") for slot in row] for row in padded])
    visual = torch.tensor([[slot == "v" for slot in row] for row in padded])
    return Prompt(embeds, mask, visual)


def generate(model: nn.Module, given: Prompt, count: int, **options) -> tuple[Tensor, Tensor]:
    """Greedy ids [B, count] and their logits [B, count, vocab] through the stock call."""
    out = model.generate(
        inputs_embeds=given.embeds,
        attention_mask=given.mask,
        max_new_tokens=count,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return out.sequences, torch.stack(out.logits, dim=1)
