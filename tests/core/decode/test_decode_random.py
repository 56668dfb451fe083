"""decode="random" on bare language models: which sets, how large, and when they change."""

from itertools import pairwise

import pytest

from tests.support.decode_cases import PROMPTS, P, assert_agree, attached, subject, traces, visual_read
from tests.support.decode_oracle import Everything, Replay, decode
from tests.support.decode_subjects import FAMILIES, language_model, prompt


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_sets_change_when_attention_moves(family, layer):
    """Of the right size, anew where the oracle sees attention move and at no other step; logits as of those columns."""
    model, given = subject(family, layer), prompt(*PROMPTS["batch"])
    got = attached(model, given, layer, decode="random")
    sets = [visual_read(given, got[2], number) for number in range(len(given.mask))]
    want = traces(
        model, given, layer, [Replay(unpadded(given, columns, number)) for number, columns in enumerate(sets)]
    )
    assert_agree(given, got, want)
    changes = set()
    for number, trace in enumerate(want):
        visual = given.row(number)[2]
        assert {len(kept) for kept in sets[number]} == {int(len(visual) * (1 - P))}
        for (before, after), step in zip(pairwise(sets[number]), trace.steps[1:], strict=True):
            moved = bool(visual) and step.similarity < 0.9
            assert (before != after) == moved
            changes.add(moved) if visual else None
    assert changes == {True, False}


def unpadded(given, columns, number):
    padding = given.row(number)[0]
    return [[column - padding for column in step] for step in columns]


def test_random_sets_come_from_the_seed():
    model, given = subject("qwen2", 3), prompt(*PROMPTS["one_span"])
    sets = {
        seed: [visual_read(given, attached(model, given, 3, decode="random", seed=seed)[2], 0) for _ in range(2)]
        for seed in (0, 1, 2)
    }
    assert all(once == again for once, again in sets.values())
    first = [tuple(once[0]) for once, _ in sets.values()]
    assert len(set(first)) == 3
    best = visual_read(given, attached(model, given, 3)[2], 0)[0]
    assert tuple(best) not in first


def test_random_sets_are_even():
    """Over seeds every visual column is read about equally often: 6 of 20 each time, 12 +- 3 in 40 seeds."""
    model, given = subject("qwen2", 3), prompt(*PROMPTS["one_span"])
    counts = dict.fromkeys(given.row(0)[2], 0)
    for seed in range(40):
        for column in visual_read(given, attached(model, given, 3, count=2, decode="random", seed=seed)[2], 0)[0]:
            counts[column] += 1
    assert sum(counts.values()) == 40 * 6 and min(counts.values()) >= 3 and max(counts.values()) <= 22


def test_random_sets_at_every_step():
    """refresh=1.0 chooses at each step, also where the observer attends to everything alike and the cosine is 1."""
    model, given = language_model("llama", observer=2, gain=0.0), prompt(*PROMPTS["one_span"])
    ids, _, keeps = attached(model, given, 3, decode="random", refresh=1.0)
    trace = decode(model, given.embeds[0], given.row(0)[2], 3, Everything(), len(ids[0]), ids=ids[0].tolist())
    assert min(step.similarity for step in trace.steps[1:]) > 1 - 1e-12
    assert all(before != after for before, after in pairwise(visual_read(given, keeps, 0)))


def test_random_sets_chosen_once():
    """No cosine of attentions is under 0."""
    model, given = subject("llama", 3), prompt(*PROMPTS["one_span"])
    sets = visual_read(given, attached(model, given, 3, decode="random", refresh=0.0)[2], 0)
    assert len(sets[0]) == 6 and all(kept == sets[0] for kept in sets)
