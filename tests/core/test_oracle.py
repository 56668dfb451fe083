"""Every stage-1 method with original positions equals masking, in prefill and while decoding, to 1e-5."""

import dataclasses

import pytest
import torch

import dycoke
from dycoke.registry import entry
from tests.cases import case, every_pair
from tests.support.oracle import compressed_logits, masked_logits
from tests.support.subjects import PROMPTS, SUBJECTS, greedy_with_logits


def compressors() -> list:
    """The stage before the language model of every registered method, at its defaults and original positions."""
    found = []
    for name in dycoke.available():
        options = {"positions": "original"} if "positions" in entry(name).options else {}
        before = dycoke.build(name, **options).plan().before
        if before is not None:
            found.append(before)
    return found


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to 1e-5, of the largest logit where that is above 1: tokens that are sums make large ones."""
    torch.testing.assert_close(got, want, atol=1e-5 * max(1.0, float(want.abs().max())), rtol=0)


KINDS = ["one_video", "two_videos", "videos_side_by_side", "batch"]
MATRIX = every_pair(compressors(), list(SUBJECTS), KINDS)


@pytest.mark.parametrize("before", compressors(), ids=lambda before: type(before).__name__)
def test_prefill_equals_masking(before):
    for _, name, prompt in (row for row in MATRIX if row[0] == before):
        subject, prompts = SUBJECTS[name](), PROMPTS[prompt]
        with case(subject=name, prompt=prompt):
            with dycoke.attach(subject.model, dycoke.Plan(before=before)):
                got = compressed_logits(subject, prompts)
            for ours, want in zip(got, masked_logits(subject, prompts, before), strict=True):
                close(ours, want)


@pytest.mark.parametrize("before", compressors(), ids=lambda before: type(before).__name__)
@pytest.mark.parametrize("name", ["llava", "hf"])
def test_decoding_equals_masking(name, before):
    """Logits of each decoded token, cached and shortened, against one uncached call on the masked whole."""
    subject, prompts = SUBJECTS[name](), PROMPTS["one_video"]
    with dycoke.attach(subject.model, dycoke.Plan(before=before)):
        answer, logits = greedy_with_logits(subject, prompts, eos_token_id=None)
    want = masked_logits(subject, prompts, before, answer)[0]
    close(torch.cat(logits), want[-7:-1])


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
