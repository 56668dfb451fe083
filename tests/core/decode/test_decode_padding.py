"""Padding in prompts whose decoding is pruned, wherever it stands and whatever the visual mask says of it."""

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from tests.support.decode_subjects import Prompt, language_model, prompt

PLAN = dycoke.Plan(decode=DynamicPruning(2, 0.5))


def test_padding_that_the_mask_calls_visual_is_padding():
    given, model = prompt("ttvvvvvvtt", "vvvvtt"), language_model("qwen2")
    padded = Prompt(given.embeds, given.mask, given.visual | (given.mask == 0))
    keeps = []
    for each in (given, padded):
        with dycoke.attach(model, PLAN, visual=each.visual, trace=True) as run:
            model.generate(inputs_embeds=each.embeds, attention_mask=each.mask, max_new_tokens=4, do_sample=False)
            keeps.append(run.report.keeps)
    assert keeps[0] == keeps[1] and all(len(step[1]) == 2 + 2 + t for t, step in enumerate(keeps[0], 1))


@pytest.mark.parametrize("p", [0.0, 0.5])
@torch.no_grad()
def test_padding_behind_the_prompt_is_not_read(p):
    """As llava packs a batch that is not generated from: steps continue each row as if it stood alone."""
    alone, model = prompt("tvvvvvvt"), language_model("qwen2")
    junk = torch.randn(1, 3, alone.embeds.shape[2], generator=torch.Generator().manual_seed(1))
    behind = Prompt(
        torch.cat([alone.embeds, junk], 1),
        torch.nn.functional.pad(alone.mask, (0, 3)),
        torch.nn.functional.pad(alone.visual, (0, 3)),
    )
    logits, read = [], []
    for each in (alone, behind):
        with dycoke.attach(model, dycoke.Plan(decode=DynamicPruning(2, p)), visual=each.visual, trace=True) as run:
            cache = model(inputs_embeds=each.embeds, attention_mask=each.mask).past_key_values
            for t, token in enumerate((3, 5, 4)):
                ids, position = torch.tensor([[token]]), torch.tensor([[8 + t]])
                out = model(input_ids=ids, past_key_values=cache, position_ids=position)
                logits.append(out.logits)
            read.append([[c for c in step[0] if c < each.mask.shape[1]] for step in run.report.keeps])
    torch.testing.assert_close(torch.stack(logits[3:]), torch.stack(logits[:3]), atol=1e-5, rtol=0)
    assert read[0] == read[1]
