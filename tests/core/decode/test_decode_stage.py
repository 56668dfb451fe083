"""The decode stage on bare language models, step by step against the oracle: columns read, logits, ids."""

from itertools import pairwise

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from tests.cases import case, every_pair
from tests.support.decode_cases import COUNT, METHODS, PROMPTS, P, assert_agree, attached, subject, traces, visual_read
from tests.support.decode_oracle import Everything
from tests.support.decode_subjects import FAMILIES, generate, prompt

# The batch has rows of every kind, so that the single rows are left to the two methods that differ most.
CASES = [(each, name) for each in PROMPTS for name in METHODS if each == "batch" or name in ("official", "paper")]
MATRIX = every_pair(CASES, list(FAMILIES), [1, 3])


def assert_turns(want):
    """Behind the first step sets are chosen at some steps and not at others, and it goes from each to the other."""
    turns = {pair for trace in want for pair in pairwise(step.selected for step in trace.steps[1:])}
    assert {(True, False), (False, True)} <= turns


def assert_no_near_tie(given, want, official):
    """No similarity, set or id hangs on how fp32 rounds, so that a difference is one of meaning."""
    for number, trace in enumerate(want):
        scored = len(given.row(number)[2]) - official
        budget = int(scored * (1 - P))
        best = trace.logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 2e-5
        for step in trace.steps if budget > 0 else []:
            assert min(abs(step.similarity - threshold) for threshold in (0.85, 0.9)) > 1e-4
            ranked = sorted(step.attention[:scored], reverse=True)
            assert not step.selected or ranked[budget - 1] > ranked[budget] * (1 + 5e-5)


@pytest.mark.parametrize("prompts, name", CASES)
def test_steps_are_the_oracles(prompts, name):
    for _, family, layer in (row for row in MATRIX if row[0] == (prompts, name)):
        with case(family=family, layer=layer):
            check_steps(family, layer, prompts, name)


def check_steps(family: str, layer: int, prompts: str, name: str) -> None:
    options, policy = METHODS[name]
    model, given = subject(family, layer), prompt(*PROMPTS[prompts])
    want = traces(model, given, layer, [policy() for _ in given.mask])
    assert_no_near_tie(given, want, official=name == "official")
    if name in ("official", "paper", "paper_lower"):
        assert_turns(want)
    assert_agree(given, attached(model, given, layer, **options), want)


@pytest.mark.parametrize("name", ["official", "paper"])
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention(family, name):
    options, policy = METHODS[name]
    model, given = subject(family, 3), prompt(*PROMPTS["batch"])
    model.set_attn_implementation("eager")
    assert_agree(given, attached(model, given, 3, **options), traces(model, given, 3, [policy() for _ in given.mask]))


@pytest.mark.parametrize("name", METHODS)
def test_prompts_with_hardly_a_visual_token(name):
    """None, one, and few enough that the budget is nought: int(1 * .3) and int(3 * .3)."""
    options, policy = METHODS[name]
    model, given = subject("qwen2", 3), prompt("tttttt", "ttvttt", "tvttvvt")
    want = traces(model, given, 3, [policy() for _ in given.mask])
    got = attached(model, given, 3, **options)
    assert_agree(given, got, want)
    first = [visual_read(given, got[2], number)[0] for number in range(3)]
    assert first == ([[], [3], [6 - 1]] if name == "official" else [[], [], []])
    text = prompt("tttttt", "ttttttttt")
    ids, logits, keeps = attached(model, text, 3, **options)
    untouched = generate(model, text, COUNT)
    assert torch.equal(ids, untouched[0])
    torch.testing.assert_close(logits, untouched[1], atol=1e-5, rtol=0)
    assert [list(step[0]) for step in keeps] == [list(range(3, 9 + n)) for n in range(1, COUNT)]


@pytest.mark.parametrize("name", ["official", "paper"])
def test_long_answers(name):
    """More tokens than the cache reserves room for at first."""
    options, policy = METHODS[name]
    model, given = subject("llama", 3), prompt("ttvvvvvvvvvvvtt", "tvvvvvvtt")
    want = traces(model, given, 3, [policy() for _ in given.mask], count=80)
    assert_no_near_tie(given, want, official=name == "official")
    assert_agree(given, attached(model, given, 3, count=80, **options), want)


@pytest.mark.parametrize("name", METHODS)
def test_a_request_remembers_none_before_it(name):
    """Of four requests on one model the second begins where the first ended; all equal the oracle's, made afresh."""
    options, policy = METHODS[name]
    model = subject("qwen2", 3)
    given, other = prompt(*PROMPTS["batch"]), prompt(*PROMPTS["batch"], seed=1)
    plan = dycoke.Plan(decode=DynamicPruning(layer=3, p=P, **options))
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        requests = [(given, 2), (given, COUNT), (other, COUNT), (given, COUNT)]
        found = [(each, *generate(model, each, count), run.report.keeps) for each, count in requests]
    for each, *got in found:
        assert_agree(each, got, traces(model, each, 3, [policy() for _ in each.mask], count=got[0].shape[1]))
    assert found[1][3] != found[2][3]


@pytest.mark.parametrize("name", METHODS)
def test_report_counts_what_the_oracle_reads(name):
    options, policy = METHODS[name]
    model, given = subject("llama", 1), prompt(*PROMPTS["batch"])
    plan = dycoke.Plan(decode=DynamicPruning(layer=1, p=P, **options))
    with dycoke.attach(model, plan, visual=given.visual) as run:
        generate(model, given, COUNT)
    want = traces(model, given, 1, [policy() for _ in given.mask])
    visual = [trace for number, trace in enumerate(want) if given.row(number)[2]]
    read = [len(step.columns) for trace in want for step in trace.steps]
    real = [length + step for length in given.mask.sum(1).tolist() for step in range(1, COUNT)]
    assert run.report.cache.selections == sum(step.selected for trace in visual for step in trace.steps)
    assert run.report.cache.read_from == pytest.approx(sum(read) / len(read))
    assert run.report.cache.read_below == pytest.approx(sum(real) / len(real))
    assert run.report.keeps is None


@pytest.mark.parametrize(
    "options", [{}, {"variant": "official"}, {"decode": "one_shot"}, {"decode": "random"}], ids=lambda o: str(o)
)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_pruned_is_the_untouched_model(family, options):
    model, given = subject(family, 3), prompt(*PROMPTS["batch"])
    ids, logits = generate(model, given, COUNT)
    got = attached(model, given, 3, p=0.0, **options)
    assert torch.equal(got[0], ids)
    torch.testing.assert_close(got[1], logits, atol=1e-5, rtol=0)
    assert_agree(given, got, traces(model, given, 3, [Everything() for _ in given.mask]))
