"""Beams and sampled answers of the decode stage: each answer's history is its own, as if it had been decoded alone."""

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from tests.support.decode_cases import METHODS, PROMPTS, P, assert_agree, subject
from tests.support.decode_oracle import decode
from tests.support.decode_subjects import FAMILIES, Prompt, prompt

ANSWERS, COUNT = 3, 8


def answers(model, given, options, **search):
    """`ANSWERS` of each row through the stock call, and the columns their steps read."""
    plan = dycoke.Plan(decode=DynamicPruning(layer=3, p=P, **options))
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        out = model.generate(
            inputs_embeds=given.embeds,
            attention_mask=given.mask,
            max_new_tokens=COUNT,
            num_return_sequences=ANSWERS,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
            **search,
        )
    return out, run.report.keeps


def alone(model, given, policy, sequences):
    """What the oracle does with each answer [B * ANSWERS, COUNT] when it is given its ids."""
    rows = [given.row(number // ANSWERS)[1:] for number in range(len(sequences))]
    return [decode(model, *row, 3, policy(), COUNT, ids=ids) for row, ids in zip(rows, sequences.tolist(), strict=True)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_beams(family, name):
    """A beam's score is the sum of its tokens' log probabilities, with the columns that its own past chooses."""
    options, policy = METHODS[name]
    model, given = subject(family, 3), prompt(*PROMPTS["batch"])
    out, _ = answers(model, given, options, num_beams=ANSWERS, do_sample=False, length_penalty=0.0)
    starts = out.beam_indices[:, 1:] != out.beam_indices[:, :-1]
    assert starts.any() and len(out.sequences.unique(dim=0)) > ANSWERS  # beams have changed places
    for score, trace in zip(out.sequences_scores, alone(model, given, policy, out.sequences), strict=True):
        chances = trace.logits.log_softmax(1).gather(1, torch.tensor(trace.ids)[:, None])
        assert float(score) == pytest.approx(float(chances.sum()), abs=5e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_answers(family, name):
    options, policy = METHODS[name]
    model, given = subject(family, 3), prompt(*PROMPTS["batch"])
    torch.manual_seed(0)
    out, keeps = answers(model, given, options, do_sample=True, temperature=2.0)
    assert len(out.sequences.unique(dim=0)) == len(out.sequences)
    each = Prompt(*(part.repeat_interleave(ANSWERS, 0) for part in (given.embeds, given.mask, given.visual)))
    want = alone(model, given, policy, out.sequences)
    assert_agree(each, (out.sequences, torch.stack(out.logits, dim=1), keeps), want)


def test_choices_of_beams_that_changed_places_are_counted():
    model, given = subject("qwen2", 3), prompt(*PROMPTS["one_span"])
    plan = dycoke.Plan(decode=DynamicPruning(layer=3, p=P, refresh=1.0))
    with dycoke.attach(model, plan, visual=given.visual) as run:
        model.generate(inputs_embeds=given.embeds, max_new_tokens=COUNT, do_sample=False, num_beams=ANSWERS)
    assert run.report.cache.selections == ANSWERS * (COUNT - 1)
