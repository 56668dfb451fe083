"""The engine answers as the stock loop does: same ids in fp32, for every method, family and kind of prompt."""

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from dycoke.registry import available
from tests.cases import folded
from tests.engine.asking import answers, ask, method
from tests.support.subjects import PROMPTS, STILLS, SUBJECTS

ORDER = ("one_video", "batch", "text", "two_videos", "one_video", "text", "batch")


def check_equal(subject, prompts, plan):
    stock, _ = answers(subject, prompts, plan, "off")
    ours, report = answers(subject, prompts, plan, "on")
    assert report.loop == "engine"
    assert torch.equal(ours, stock)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SUBJECTS for name in ("full", "dycoke")][::3])
@folded("prompts", PROMPTS | STILLS)
def test_prompts_of_every_kind(kind, name, prompts):
    check_equal(SUBJECTS[kind](), (PROMPTS | STILLS)[prompts], method(name))


@pytest.mark.parametrize(("number", "name"), list(enumerate(available())))
def test_every_method(number, name):
    check_equal(SUBJECTS[("llava", "hf")[number % 2]](), PROMPTS["batch"], method(name))


@pytest.mark.parametrize("inner", ["fastv", "pdrop", "framefusion"])
@pytest.mark.parametrize(("kind", "layer"), [("llava", 1), ("hf", 2), ("llava", 3)])
def test_a_stage_inside_and_one_while_decoding(kind, layer, inner):
    plan = dycoke.Plan(inside=method(inner).plan().inside, decode=DynamicPruning(layer, 0.6, refresh=1.0))
    check_equal(SUBJECTS[kind](), PROMPTS["batch"], plan)


@pytest.mark.parametrize("options", [{"variant": "official"}, {"decode": "one_shot"}, {"decode": "random"}], ids=str)
def test_variants_of_dynamic_pruning(options):
    check_equal(SUBJECTS["hf"](), PROMPTS["batch"], method("dycoke", **options))


@pytest.mark.parametrize("name", ["full", "dycoke", "fastv"])
def test_requests_do_not_see_each_other(name):
    """Longer and shorter prompts, one row and several, in turn: stores are used again, and filled anew."""
    subject = SUBJECTS["llava"]()
    with dycoke.attach(subject.model, method(name), engine="on") as run:
        found = [ask(subject, PROMPTS[kind]) for kind in ORDER]
        assert run.report.loop == "engine"
    with dycoke.attach(subject.model, method(name), engine="off"):
        for kind, ids in zip(ORDER, found, strict=True):
            assert torch.equal(ids, ask(subject, PROMPTS[kind])), kind
