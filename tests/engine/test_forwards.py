"""The fast forwards on whole models: same answers, hooks and methods still work, and everything is given back."""

import pytest
import torch
from torch import nn

import dycoke
from dycoke.engine.prefill import language as language_prefill
from dycoke.engine.prefill import vision
from dycoke.engine.prefill.forwards import FastForwards
from tests.engine.models import embeds, encoder, language
from tests.support.subjects import PROMPTS, STILLS, SUBJECTS, forward, greedy

NAMES = ["llava", "llava_llama", "hf"]
METHODS = {  # and their options
    "full": {},
    "dycoke": {},
    "visionzip": {},  # reads the tower
    "fastv": {},  # reads layers of the language model
}
METHODS_OF_PARTS = ("forward", "encode", "apply_pooling")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def ran(monkeypatch):
    """Which fast forwards were run, in order."""
    calls = []

    def noted(cls, name):
        run = cls.run

        def noting(self, given):
            calls.append(name)
            return run(self, given)

        monkeypatch.setattr(cls, "run", noting)

    noted(language_prefill.LanguagePrefill, "language model")
    noted(vision.EncoderLayers, "vision")
    return calls


def parts(subject):
    """The modules that `FastForwards` may change, with the names of their methods."""
    return [(module, name) for module in subject.model.modules() for name in METHODS_OF_PARTS if name in vars(module)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompts", ["one_video", "two_videos", "text", "batch"])
def test_a_forward_pass(name, prompts, ran):
    subject = SUBJECTS[name]()
    assert set(FastForwards(subject.model).reasons()) == {"language model", "vision"} | (
        {"pooling"} if name == "hf" else set()
    )
    assert not any(FastForwards(subject.model).reasons().values())
    want, real = forward(subject, PROMPTS[prompts])
    with FastForwards(subject.model).on():
        got, _ = forward(subject, PROMPTS[prompts])
    torch.testing.assert_close(got[real], want[real], **CLOSE)
    assert ran == (["language model"] if prompts == "text" else ["vision", "language model"])
    assert parts(subject) == []
    again, _ = forward(subject, PROMPTS[prompts])
    assert torch.equal(again[real], want[real]) and len(ran) < 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_generate_with_a_method_attached(name, method, ran):
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, dycoke.build(method, **METHODS[method])) as run:
        want, expected = greedy(subject, PROMPTS["batch"]), run.report
    with FastForwards(subject.model).on(), dycoke.attach(subject.model, dycoke.build(method, **METHODS[method])) as run:
        assert torch.equal(greedy(subject, PROMPTS["batch"]), want)
        assert run.report.videos == expected.videos and run.report.inside == expected.inside
        inside = method == "fastv"
        assert (FastForwards(subject.model).reasons()["language model"] != "") == inside
    assert ran == ["vision"] + ["language model"] * (not inside)


@pytest.mark.parametrize("name", NAMES)
def test_entered_behind_the_method_and_with_an_image(name, ran):
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        want = greedy(subject, STILLS["image"])
        with FastForwards(subject.model).on():
            assert torch.equal(greedy(subject, STILLS["image"]), want)
    assert ran == ["vision", "language model"] and parts(subject) == []


def test_beams_and_a_static_cache(ran):
    subject = SUBJECTS["hf"]()
    runs = {}
    for options in ({"num_beams": 2}, {"cache_implementation": "static"}, {"use_cache": False}):
        want = greedy(subject, PROMPTS["batch"], **options)
        with FastForwards(subject.model).on():
            assert torch.equal(greedy(subject, PROMPTS["batch"], **options), want)
        runs[next(iter(options))] = ran.count("language model")
        ran.clear()
    # A static cache comes with masks that are made already; without a cache every step reads the whole prompt.
    assert runs == {"num_beams": 1, "cache_implementation": 0, "use_cache": 6}


def test_hooks_of_the_parts_run_once_a_call():
    subject, seen = SUBJECTS["hf"](), []
    inner = subject.model.model
    for part in (inner.language_model, inner.vision_tower, inner.multi_modal_projector):
        part.register_forward_pre_hook(lambda module, args: seen.append(type(module).__name__))
    with FastForwards(subject.model).on():
        forward(subject, PROMPTS["one_video"])
    assert seen == ["SiglipVisionModel", "LlavaOnevisionMultiModalProjector", "Qwen2Model"]


@pytest.mark.parametrize("name", NAMES)
def test_given_back_by_an_exception(name):
    subject = SUBJECTS[name]()
    with pytest.raises(KeyError), FastForwards(subject.model).on():
        assert len(parts(subject)) == len(FastForwards(subject.model).reasons())
        raise KeyError
    assert parts(subject) == []
    assert not any(FastForwards(subject.model).reasons().values())


def test_twice_raises_and_leaves_the_first_in_place():
    model = language()
    with FastForwards(model).on():
        with pytest.raises(ValueError, match="already has fast forward passes"), FastForwards(model).on():
            pass
        assert "forward" in vars(model.model) and FastForwards(model).reasons() == {"language model": ""}


def test_a_forward_of_somebody_elses_is_left_alone():
    model, own = language(), lambda *args, **kwargs: "own"
    model.model.forward = own
    assert FastForwards(model).reasons() == {"language model": "a Qwen2Model has a forward of its own"}
    with FastForwards(model).on():
        assert model.model() == "own"
    assert model.model.forward is own


def test_a_compiled_module_is_left_alone():
    model = encoder()
    model.compile(backend="eager")
    assert FastForwards(model).reasons() == {"vision": "a SiglipVisionModel is compiled"}
    with FastForwards(model).on():
        assert "forward" not in vars(model)


def test_models_alone_and_models_without_parts():
    assert FastForwards(encoder()).reasons() == {"vision": ""}
    assert FastForwards(nn.Linear(1, 1)).reasons() == {}
    model = language("llama")
    with torch.no_grad():
        want = model(inputs_embeds=embeds(2, 5)).logits
        with FastForwards(model.model).on():
            torch.testing.assert_close(model(inputs_embeds=embeds(2, 5)).logits, want, **CLOSE)


def test_gradients_flow_as_before(ran):
    model = language()
    with FastForwards(model).on():
        model(inputs_embeds=embeds(1, 5)).logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.any() and not ran


@pytest.mark.parametrize("frames", [1, 3])
def test_frames_are_pooled_as_the_model_does(frames):
    model = SUBJECTS["hf"]().model.model
    features = torch.randn(frames, 36, 8)
    want = model.apply_pooling(features)
    with FastForwards(model).on():
        assert "apply_pooling" in vars(model)
        got = model.apply_pooling(features)
        assert got.is_contiguous()
        torch.testing.assert_close(got, want)
        with pytest.raises(RuntimeError, match="shape"):
            model.apply_pooling(features[:, :35])  # the model's own message
    assert model.apply_pooling(features).shape == want.shape
