"""Attaching leaves no trace: hooks, attributes and attention names as before, also after an exception."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import dycoke
from dycoke.types import Compressed
from tests.support.subjects import PROMPTS, SUBJECTS, Clip, greedy

NAMES = ["llava", "hf"]


def fingerprint(model: nn.Module) -> dict:
    """Hooks and attributes of every module, attention names, and the methods an instance may shadow."""
    hooks = [key for key in vars(nn.Module()) if key.endswith("hooks")]
    state = {}
    for name, module in model.named_modules():
        state[name] = (
            {key: len(getattr(module, key)) for key in hooks},
            {key: id(value) for key, value in vars(module).items() if not key.startswith("_")},
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
    state["generation"] = dict(vars(model.generation_config))
    return state


@pytest.fixture(params=NAMES)
def subject(request):
    subject = SUBJECTS[request.param]()
    greedy(subject, PROMPTS["one_video"])  # transformers installs hooks of its own in the first forward pass
    return subject


def test_the_block_gives_the_model_back(subject):
    before, ids = fingerprint(subject.model), greedy(subject, PROMPTS["one_video"])
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        assert fingerprint(subject.model) != before
        assert not torch.equal(greedy(subject, PROMPTS["one_video"]), ids)
    assert fingerprint(subject.model) == before
    assert torch.equal(greedy(subject, PROMPTS["one_video"]), ids)


def test_an_exception_gives_the_model_back(subject):
    before = fingerprint(subject.model)
    with pytest.raises(KeyError), dycoke.attach(subject.model, dycoke.build("dycoke")):
        raise KeyError("user code")
    assert fingerprint(subject.model) == before


def test_a_failing_method_gives_the_model_back_and_leaks_no_request(subject):
    """The released variant refuses 4 frames in the middle of a forward pass."""
    before = fingerprint(subject.model)
    # Where videos of a batch may differ in length, the first is compressed and counted before the second fails.
    short = [[5, Clip(4), 7]] if subject.returns_prompt else [[5, PROMPTS["one_video"][0][2], 6, Clip(4), 7]]
    with dycoke.attach(subject.model, dycoke.build("dycoke", variant="official")) as run:
        with pytest.raises(ValueError, match="at least 5 frames, got 4"):
            greedy(subject, short)
        with pytest.raises(RuntimeError, match="no report yet"):
            _ = run.report
        greedy(subject, PROMPTS["one_video"])
        assert run.report.frames == 8
    assert fingerprint(subject.model) == before


def test_a_request_that_fails_in_the_language_model_is_not_counted(subject):
    with dycoke.attach(subject.model, dycoke.build("dycoke")) as run:
        hook = subject.language_model().layers[0].register_forward_pre_hook(_fail)
        with pytest.raises(MemoryError):
            greedy(subject, PROMPTS["one_video"])
        hook.remove()
        greedy(subject, PROMPTS["one_video"])
        assert run.report.frames == 8 and run.report.visual_kept < 0.5


def _fail(*args):
    raise MemoryError("in the middle of a request")


def test_a_copy_of_an_attached_model_is_refused(subject):
    """Its hooks would go on reporting to the original, and nothing could take them off."""
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        for copying in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="remove the method first"):
                copying(subject.model)


def test_apply_and_remove(subject):
    before = fingerprint(subject.model)
    run = dycoke.apply(subject.model, dycoke.build("full"))
    with pytest.raises(ValueError, match="carries the method 'full' already"):
        dycoke.apply(subject.model, dycoke.build("dycoke"))
    dycoke.remove(subject.model)
    run.remove()  # twice does nothing
    assert fingerprint(subject.model) == before
    with pytest.raises(ValueError, match="carries no method"):
        dycoke.remove(subject.model)
    with pytest.raises(ValueError, match="carries no method"):
        dycoke.attached(subject.model)
    with dycoke.attach(subject.model, dycoke.build("full")) as run:
        assert dycoke.attached(subject.model) is run
        dycoke.remove(subject.model)  # leaving early must not fail at the end of the block
    assert fingerprint(subject.model) == before


def test_attaching_keeps_no_model_alive(subject):
    run = dycoke.apply(subject.model, dycoke.build("dycoke"))
    model = weakref.ref(subject.model)
    del subject.model
    gc.collect()
    assert model() is None
    run.remove()  # nothing is left to be taken off


def test_two_models_carry_two_methods():
    first, second = SUBJECTS["llava"](), SUBJECTS["llava"]()
    alone = greedy(second, PROMPTS["one_video"])
    with dycoke.attach(first.model, dycoke.build("dycoke")) as one:
        assert torch.equal(greedy(second, PROMPTS["one_video"]), alone)
        with dycoke.attach(second.model, dycoke.build("full")) as two:
            greedy(first, PROMPTS["one_video"])
            greedy(second, PROMPTS["one_video"])
            assert (one.report.visual_kept, two.report.visual_kept) == (56 / 128, 1.0)


def test_no_adapter_names_the_supported_families():
    with pytest.raises(ValueError, match=r"no adapter for Linear; supported: .*LlavaOnevisionForConditionalGeneration"):
        dycoke.apply(nn.Linear(2, 2), dycoke.build("full"))


@pytest.mark.parametrize("method", ["dycoke", None, dycoke.methods.DyCoke])
def test_attach_takes_a_method_or_a_plan(method):
    with pytest.raises(TypeError, match="expected a method"):
        dycoke.apply(SUBJECTS["llava"]().model, method)


def test_a_method_whose_plan_is_not_one_is_refused():
    class Planless:
        def plan(self):
            return {"before": "vidcom2"}

    with pytest.raises(TypeError, match=r"Planless.plan\(\) returned {'before': 'vidcom2'}: expected a dycoke.Plan"):
        dycoke.apply(SUBJECTS["llava"]().model, Planless())


class Fake:
    """A compressor that announces one token more than it returns."""

    needs = frozenset()
    positions = "packed"
    raster = True

    def compress(self, video):
        return Compressed(video.embeds[0], torch.arange(video.embeds.shape[1]))

    def count(self, frames, per_frame):
        return per_frame + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_the_adapter_cannot_serve(name):
    subject = SUBJECTS[name]()
    before = fingerprint(subject.model)
    needy, reordering = Fake(), Fake()
    needy.needs = frozenset({"motion", "query"})
    reordering.raster, reordering.positions = False, "original"
    pruner = type("Pruner", (), {"layer": 9, "prune": lambda *a: None})()
    for plan, error in [
        (dycoke.Plan(), "empty plan"),
        (dycoke.Plan(before=needy), "needs motion; its adapter provides: keys, query, saliency"),
        (dycoke.Plan(before=reordering), "needs tokens in raster order"),
        (dycoke.Plan(inside=pruner), "layer=9: expected 1 to 3, because this model has 4 layers"),
    ]:
        with pytest.raises(ValueError, match=error):
            dycoke.apply(subject.model, plan)
    with dycoke.attach(subject.model, dycoke.Plan(before=Fake())), pytest.raises(ValueError, match=r"expected (10|17)"):
        greedy(subject, PROMPTS["one_video"])
    assert fingerprint(subject.model).keys() == before.keys()


@pytest.mark.parametrize("name", ["llava_grid", "llava_frame"])
def test_newlines_inside_a_video_refuse_reordered_tokens(name):
    subject = SUBJECTS[name]()
    method = dycoke.build("dycoke", variant="official")
    with dycoke.attach(subject.model, method), pytest.raises(ValueError, match="out of raster order"):
        greedy(subject, PROMPTS["one_video"])
