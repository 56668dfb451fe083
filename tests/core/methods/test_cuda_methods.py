"""Every registered method on a GPU: what it keeps there is what it keeps on a CPU. Skipped without one."""

import dataclasses

import pytest
import torch

import dycoke
from dycoke.registry import entry
from dycoke.types import Plan
from tests.cases import folded
from tests.core.methods.test_contract import METHODS, video
from tests.core.test_cuda import OnGPU
from tests.support.decode_subjects import generate, language_model, prompt
from tests.support.subjects import PROMPTS, greedy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

FITTED = {  # layers that a model of five has
    "fastv": {"k": 2},
    "pdrop": {"layers": (1, 3)},
    "sparsevlm": {"layers": (0, 1, 3)},
    "holitom": {"layer": 2},
    "flashvid": {"layer": 2},
    "prunevid": {"layer": 2},
    "framefusion": {},
}


def on_gpu(tokens):
    return dataclasses.replace(
        tokens, **{name: getattr(tokens, name).cuda() for name in ("embeds", "saliency", "keys")}
    )


@folded("frames", [1, 8, 32])
@pytest.mark.parametrize("name", METHODS)
def test_compress_is_the_cpus(name, frames):
    tokens = video(frames, (7, 7))
    try:
        want = METHODS[name].compress(tokens)
    except ValueError as error:
        pytest.skip(str(error))
    got = METHODS[name].compress(on_gpu(tokens))
    assert torch.equal(got.index.cpu(), want.index)
    torch.testing.assert_close(got.embeds.cpu(), want.embeds, atol=1e-4, rtol=1e-4)
    again = METHODS[name].compress(on_gpu(tokens))
    assert torch.equal(again.index, got.index) and torch.equal(again.embeds, got.embeds)


def test_every_method_inside_has_its_layers_here():
    inside = [name for name in dycoke.available() if "inside" in entry(name).stages]
    assert set(inside) == set(FITTED)


@pytest.mark.parametrize("decode", [None, dycoke.build("dynamic_pruning", layer=3, p=0.5)], ids=["inside", "both"])
@pytest.mark.parametrize("name", [name for name in FITTED if name != "framefusion"])
def test_answers_are_the_cpus(name, decode):
    """Ids of a batch with padding; the CPU's are the oracle's (test_inside.py)."""
    model, given = language_model("qwen2", observer=1, gain=6.0), prompt("ttvvvvvvvvvvtttt", "tvvvvvvtt", "ttt")
    plan = Plan(inside=dycoke.build(name, **FITTED[name]).plan().inside, decode=decode)
    with dycoke.attach(model, plan, visual=given.visual):
        want, logits = generate(model, given, 4)
    model = model.cuda()
    given = dataclasses.replace(given, **{f.name: getattr(given, f.name).cuda() for f in dataclasses.fields(given)})
    with dycoke.attach(model, plan, visual=given.visual):
        got, steps = generate(model, given, 4)
    assert torch.equal(got.cpu(), want)
    torch.testing.assert_close(steps.cpu(), logits, atol=1e-3, rtol=0)


@folded("subject", ["llava", "hf"])
@pytest.mark.parametrize("name", [name for name in dycoke.available() if "before" in entry(name).stages])
def test_a_video_end_to_end(name, subject):
    options = {"layer": 2} if name in ("holitom", "flashvid", "prunevid") else {}
    subject = OnGPU(subject)
    with dycoke.attach(subject.model, dycoke.build(name, **options)) as run:
        first = greedy(subject, PROMPTS["batch"])
        assert torch.equal(greedy(subject, PROMPTS["batch"]), first)
        stages = run.report.stages
    assert stages["compress"].ms > 0 and 0 < stages["compress"].tokens <= stages["vision"].tokens
