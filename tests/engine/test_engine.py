"""The engine answers as the stock loop does: same ids in fp32, for every method, family and kind of prompt."""

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from dycoke.registry import available
from tests.core.subjects import PROMPTS, STILLS, SUBJECTS
from tests.engine.asking import answers, ask, method

ORDER = ("one_video", "batch", "text", "two_videos", "one_video", "text", "batch")


def check_equal(subject, prompts, plan):
    stock, _ = answers(subject, prompts, plan, "off")
    ours, report = answers(subject, prompts, plan, "on")
    assert report.loop == "engine"
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("kind", list(SUBJECTS))
@pytest.mark.parametrize("prompts", PROMPTS | STILLS, ids=str)
@pytest.mark.parametrize("name", ["full", "dycoke"])
def test_prompts_of_every_kind(kind, prompts, name):
    subject = SUBJECTS[kind]()
    asked = (PROMPTS | STILLS)[prompts]
    if name == "dycoke" and prompts in STILLS and kind.startswith("llava"):
        pytest.skip("no video in it")
    check_equal(subject, asked, method(name))


@pytest.mark.parametrize("kind", ["llava", "hf"])
@pytest.mark.parametrize("name", available())
def test_every_method(kind, name):
    subject = SUBJECTS[kind]()
    check_equal(subject, PROMPTS["batch"], method(name))


@pytest.mark.parametrize("inner", ["fastv", "pdrop", "framefusion"])
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("kind", ["llava", "hf"])
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
