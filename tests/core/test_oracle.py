"""Every stage-1 method with original positions equals masking, in prefill and while decoding, to 1e-5."""

import dataclasses

import pytest
import torch

import dycoke
from dycoke.registry import entry
from tests.core.oracle import compressed_logits, masked_logits
from tests.core.subjects import PROMPTS, SUBJECTS, greedy_with_logits


def methods() -> list:
    """Every registered method with a stage before the language model, at its defaults and original positions."""
    found = []
    for name in dycoke.available():
        known = {"positions": "original", "decode": "off"}  # this oracle knows nothing of pruning while decoding
        options = {option: value for option, value in known.items() if option in entry(name).options}
        if dycoke.build(name).plan().before is not None:
            found.append(dycoke.build(name, **options))
    return found


@pytest.mark.parametrize("prompt", ["one_video", "two_videos", "videos_side_by_side", "batch"])
@pytest.mark.parametrize("method", methods(), ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("name", SUBJECTS)
def test_prefill_equals_masking(name, method, prompt):
    subject, prompts = SUBJECTS[name](), PROMPTS[prompt]
    with dycoke.attach(subject.model, method):
        got = compressed_logits(subject, prompts)
    for ours, want in zip(got, masked_logits(subject, prompts, method.plan().before), strict=True):
        torch.testing.assert_close(ours, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", methods(), ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("name", ["llava", "hf"])
def test_decoding_equals_masking(name, method):
    """Logits of each decoded token, cached and shortened, against one uncached call on the masked whole."""
    subject, prompts = SUBJECTS[name](), PROMPTS["one_video"]
    with dycoke.attach(subject.model, method):
        answer, logits = greedy_with_logits(subject, prompts, eos_token_id=None)
    want = masked_logits(subject, prompts, method.plan().before, answer)[0]
    torch.testing.assert_close(torch.cat(logits), want[-7:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SUBJECTS)
def test_packed_positions_are_consecutive(name):
    """Packed and original differ, and packed equals the same tokens with positions 0, 1, 2, ..."""
    subject, prompts = SUBJECTS[name](), PROMPTS["one_video"]
    seen = []
    method = dycoke.build("dycoke")
    with dycoke.attach(subject.model, method):
        hook = subject.language_model().register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
        )
        packed = compressed_logits(subject, prompts)[0]
        hook.remove()
    with dycoke.attach(subject.model, dataclasses.replace(method, positions="original")):
        original = compressed_logits(subject, prompts)[0]
    assert (packed - original).abs().max() > 1e-3
    embeds = seen[0]["inputs_embeds"]
    positions = torch.arange(embeds.shape[1])[None]
    hidden = subject.language_model()(inputs_embeds=embeds, position_ids=positions).last_hidden_state
    torch.testing.assert_close(subject.model.lm_head(hidden)[0], packed, atol=1e-5, rtol=0)
