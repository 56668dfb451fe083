"""Decode methods, each with the oracle's policy for it, prompts to try them on, and how their steps are compared."""

import torch

import dycoke
from dycoke.methods import DynamicPruning
from tests.support.decode_oracle import OneShot, Paper, Published, decode
from tests.support.decode_subjects import generate, language_model

P, COUNT = 0.7, 12
# Options of DynamicPruning, and what makes the policy that does the same.
METHODS = {
    "official": ({"variant": "official"}, lambda: Published(P)),
    "paper": ({}, lambda: Paper(P)),
    "paper_lower": ({"refresh": 0.85}, lambda: Paper(P, 0.85)),
    "paper_every_step": ({"refresh": 1.0}, lambda: Paper(P, 1.0)),
    "paper_once": ({"refresh": 0.0}, lambda: Paper(P, 0.0)),
    "one_shot": ({"decode": "one_shot"}, lambda: OneShot(P)),
}
PROMPTS = {
    "one_span": ["ttvvvvvvvvvvvvvvvvvvvvtt"],
    "spans": ["tvvvvvvvttvvvvvvvvvtvvvvvt"],
    "bare": ["vvvvvvvvvvvvvvvvvv"],
    "batch": ["ttvvvvvvvvvvvvvvvvvvvvtt", "tvvvvvvvvtt", "tttttttttttttttttt", "vvvvvvttvvvvvvvvvtvvvvvtttttt"],
}
# Gain and seed of models whose similarity crosses the threshold and back with every prompt; L is the second.
OBSERVERS = {("qwen2", 1): (0.33, 8), ("qwen2", 3): (0.38, 4), ("llama", 1): (0.28, 3), ("llama", 3): (0.38, 2)}


def subject(family, layer):
    """The model for a method with this L."""
    gain, seed = OBSERVERS[family, layer]
    return language_model(family, seed=seed, observer=layer - 1, gain=gain)


def attached(model, given, layer, *, count=COUNT, p=P, **options):
    """Ids [B, count], logits [B, count, vocab] and columns read by step and row, of one request with the method on."""
    plan = dycoke.Plan(decode=DynamicPruning(layer=layer, p=p, **options))
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        ids, logits = generate(model, given, count)
    return ids, logits, run.report.keeps


def traces(model, given, layer, policies, count=COUNT):
    """What the oracle does with each row, with a policy for each."""
    rows = [given.row(number)[1:] for number in range(len(given.mask))]
    return [decode(model, *row, layer, policy, count) for row, policy in zip(rows, policies, strict=True)]


def assert_agree(given, got, want):
    """Columns and ids equal, logits to 1e-5; got as `attached` returns it, want as `traces` does."""
    ids, logits, keeps = got
    assert len(keeps) == ids.shape[1] - 1
    for number, trace in enumerate(want):
        padding = given.row(number)[0]
        read = [list(step[number]) for step in keeps]
        assert read == [[padding + column for column in step.columns] for step in trace.steps]
        assert ids[number].tolist() == trace.ids
        torch.testing.assert_close(logits[number], trace.logits.float(), atol=1e-5, rtol=0)


def visual_read(given, keeps, number):
    """The visual columns a row reads at each step."""
    visual = set(given.visual[number].nonzero().flatten().tolist())
    return [[column for column in step[number] if column in visual] for step in keeps]
