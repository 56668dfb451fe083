"""Tokens that leave inside the language model, against the oracle: sets, and logits of the prompt and the answer."""

import math

import pytest
import torch

import dycoke
from dycoke.types import Plan
from tests.support.decode_oracle import OneShot, Paper
from tests.support.decode_subjects import FAMILIES, generate, language_model, prompt
from tests.support.inside_oracle import Rule, answer
from tests.support.naive import cosine

COUNT = 4
PROMPTS = {
    "batch": ("ttvvvvvvvvvvtttt", "tvvvvvvtt", "ttt", "vvvtvvvvttt"),
    "spans": ("tvvvvvtvvvvvvvtt", "vvvvvvvt"),
}


def ranked(visual: list[int], score, count: int) -> list[int]:
    """The `count` columns with the highest score, ascending; of equals the earlier."""
    return sorted(sorted(visual, key=lambda column: (-score(column), column))[:count])


class FastV(Rule):
    def __init__(self, r: float) -> None:
        self.r = r

    def keep(self, view):
        return ranked(view.visual, lambda c: float(view.previous[c].mean()), round(len(view.visual) * (1 - self.r)))


class PDrop(Rule):
    """Its stages, the first of which sees all there is, share `entered`, how many that was."""

    packed = True

    def __init__(self, share: float, first: bool, entered: list) -> None:
        self.share, self.first, self.entered = share, first, entered

    def keep(self, view):
        if self.first:
            self.entered[:] = [len(view.visual)]
        count = min(len(view.visual), max(1, int(self.entered[0] * self.share)))
        return ranked(view.visual, lambda c: float(view.own[c].mean()), count)


class SparseVLM(Rule):
    def __init__(self, shares, stage: int, heads: int = 14) -> None:
        self.shares, self.stage, self.heads = (1.0, *shares), stage, heads

    def keep(self, view):
        if not view.visual:
            return []
        scaled = {c: view.previous[c] / view.rotary[c] for c in view.visual}
        total = sum(scaled.values())
        best = sorted(range(len(total)), key=lambda h: -float(total[h]))[: self.heads]
        count = max(1, round(len(view.visual) * self.shares[self.stage + 1] / self.shares[self.stage]))
        return ranked(view.visual, lambda c: sum(float(scaled[c][h]) for h in best), min(count, len(view.visual)))


class FlashVid(FastV):
    def keep(self, view):
        count = math.ceil(len(view.visual) * self.r)
        return ranked(view.visual, lambda c: float(view.previous[c].mean()), count)


class HoliTom(FastV):
    def merge(self, view, kept):
        guests = {column: [h] for column, h in view.hidden.items()}
        for column in view.visual:
            if kept and column not in kept:
                nearest = max(kept, key=lambda c: (cosine(view.hidden[column], view.hidden[c]), -c))
                guests[nearest].append(view.hidden[column])
        return {column: torch.stack(each).mean(0) for column, each in guests.items()}


class PruneVid(Rule):
    evicts = True

    def keep(self, view):
        count = min(len(view.visual), max(1, int(len(view.visual) * 0.4)))
        return ranked(view.visual, lambda c: float(view.previous[c].max()), count)


def pdrop(shares: dict[int, float]) -> dict[int, Rule]:
    """Its stages, by the share that each layer leaves of what entered the model."""
    entered = []
    return {layer: PDrop(share, layer == min(shares), entered) for layer, share in shares.items()}


SHARES = tuple((1 / 3) ** e for e in (0.59376, 0.96284, 1.44303))
METHODS = {
    "fastv": (dycoke.build("fastv", k=2, r=0.5), {2: FastV(0.5)}),
    "fastv none left": (dycoke.build("fastv", k=1, r=1.0), {1: FastV(1.0)}),
    "pdrop": (dycoke.build("pdrop", layers=(0, 2, 4)), pdrop({0: 0.5, 2: 0.25, 4: 0.125})),
    "pdrop most": (dycoke.build("pdrop", layers=(0, 2, 4), keep=0.7), pdrop({0: 0.7, 2: 0.49, 4: 0.343})),
    "sparsevlm": (
        dycoke.build("sparsevlm", layers=(0, 1, 3)),
        {layer + 1: SparseVLM(SHARES, stage) for stage, layer in enumerate((0, 1, 3))},
    ),
    "sparsevlm budget": (
        dycoke.build("sparsevlm", layers=(0, 1, 3), budget=128),
        {layer + 1: SparseVLM((238 / 576, 108 / 576, 60 / 576), stage) for stage, layer in enumerate((0, 1, 3))},
    ),
    "holitom": (dycoke.build("holitom", layer=2), {2: HoliTom(0.5)}),
    "prunevid": (dycoke.build("prunevid", layer=2), {3: PruneVid()}),
    "flashvid": (dycoke.build("flashvid", layer=4), {4: FlashVid(0.3)}),
}


def inside(name: str):
    return METHODS[name][0].plan().inside


def model_of(family: str):
    return language_model(family, observer=1, gain=6.0)


@pytest.mark.parametrize("rows", PROMPTS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_answer_are_the_oracles(family, name, rows):
    model, given = model_of(family), prompt(*PROMPTS[rows])
    with dycoke.attach(model, Plan(inside=inside(name)), visual=given.visual, trace=True) as run:
        logits = model(inputs_embeds=given.embeds, attention_mask=given.mask).logits
        ids, steps = generate(model, given, COUNT)
        entered = run.report.inside
    for number in range(len(given.embeds)):
        padding, embeds, visual = given.row(number)
        prefill, decoded = answer(
            model, embeds, visual, METHODS[name][1], COUNT, positions=[*range(padding, padding + len(embeds))]
        )
        for each in entered:
            assert each.columns[number] == [padding + c for c in prefill.entered[each.layer]]
        torch.testing.assert_close(logits[number, -len(prefill.logits) :].double(), prefill.logits, atol=1e-5, rtol=0)
        _, decoded = answer(model, embeds, visual, METHODS[name][1], COUNT)
        assert ids[number].tolist() == decoded.ids
        torch.testing.assert_close(steps[number].double(), decoded.logits, atol=1e-5, rtol=0)
    assert [each.layer for each in entered] == sorted(METHODS[name][1])


@torch.no_grad()
def test_pyramid_drop_counts_every_stage_from_what_entered():
    """int(1001 * .49) is 490, though int(700 * .7) is 489; beside it a short row whose padding is marked as visual."""
    model, given = model_of("qwen2"), prompt("t" + "v" * 1001 + "t", "vvvvvvvvvvvt")
    model.config.max_position_embeddings = 1024
    plan = dycoke.build("pdrop", layers=(1, 3), keep=0.7).plan()
    with dycoke.attach(model, plan, visual=given.visual | (given.mask == 0), trace=True) as run:
        model(inputs_embeds=given.embeds, attention_mask=given.mask)
        stages = run.report.inside
    assert [[len(row) for row in each.columns] for each in stages] == [[2 + 700, 1 + 7], [2 + 490, 1 + 5]]


@pytest.mark.parametrize("decode", ["dynamic", "one_shot"])
@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("name", ["fastv", "pdrop", "sparsevlm", "prunevid"])
def test_with_pruning_while_decoding(name, layer, decode):
    """Tokens leave before, at and behind the observer; what it chooses is looked for in what later layers hold."""
    model, given = model_of("qwen2"), prompt(*PROMPTS["batch"])
    pruning = dycoke.build("dynamic_pruning", layer=layer, p=0.5, decode=decode)
    plan = Plan(inside=inside(name), decode=pruning)
    with dycoke.attach(model, plan, visual=given.visual) as run:
        ids, steps = generate(model, given, COUNT)
        report = run.report.cache
    for number in range(len(given.embeds)):
        _, embeds, visual = given.row(number)
        policy = Paper(0.5) if decode == "dynamic" else OneShot(0.5)
        _, decoded = answer(model, embeds, visual, METHODS[name][1], COUNT, layer=layer, policy=policy)
        assert ids[number].tolist() == decoded.ids
        torch.testing.assert_close(steps[number].double(), decoded.logits, atol=1e-5, rtol=0)
    assert report.read_from < report.read_below


def test_what_is_evicted_leaves_the_cache_of_every_layer():
    """PruneVid's stage inside: layers before it hold no more of the prompt than those behind it."""
    model, given = model_of("qwen2"), prompt("tvvvvvvvvvvt")
    with dycoke.attach(model, Plan(inside=inside("prunevid")), visual=given.visual) as run:
        generate(model, given, COUNT)
        report = run.report.cache
    # Two text tokens and four of ten visual ones in each layer; the answer's 1, 2 and 3 columns.
    assert report.read_below == 6 + 2
    column = 2 * 2 * 12 * 4  # keys and values of two heads of 12 channels in fp32
    assert report.device_bytes == 5 * (6 + 64) * column
