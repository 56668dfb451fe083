"""The probe of a vision tower between requests: what is hooked, worked out and remembered, and for how long."""

import gc
import inspect
import weakref

import pytest
import torch

import dycoke
from tests.core.test_attach import fingerprint
from tests.support.subjects import HF_VIDEO, PROMPTS, Clip, HFSubject, forward, greedy
from tests.support.tower_subjects import (
    BOTH,
    NAMES,
    SUBJECTS,
    Reference,
    Spy,
    attach,
    check,
    clip_llava,
    counting,
    hf,
    llava,
    remembered,
    tower_of,
    videos_of,
)


def hooks_of(tower) -> int:
    """Hooks on the layers of a tower."""
    found = [vars(module) for module in tower.encoder.modules()]
    return sum(len(own["_forward_hooks"]) + len(own["_forward_pre_hooks"]) for own in found)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_hooked_or_worked_out_unless_needed(name):
    subject, still = SUBJECTS[name](), [[5, Clip(None), 6]]
    forward(subject, PROMPTS["one_video"])  # transformers hooks its layers in the first call
    tower = tower_of(subject)
    with counting(subject) as calls:
        own, run = hooks_of(tower), 3  # CLIP has a fourth layer, which is not run

        def expect(compressor, hooked, queries, keys, prompts=PROMPTS["two_videos"]):
            calls.update(dict.fromkeys(calls, 0))
            with attach(subject, compressor):
                assert hooks_of(tower) == own + hooked
                forward(subject, prompts)
            assert hooks_of(tower) == own
            for number in range(run - 1):
                assert calls[number, "q_proj"] == calls[number, "k_proj"] == 1
            assert (calls[run - 1, "q_proj"] - 1, calls[run - 1, "k_proj"] - 1) == (queries, keys)

        expect(Spy(), 0, 0, 0)
        expect(Spy("query"), 0, 0, 0)
        expect(Spy("saliency"), 1, 2, 2)
        expect(Spy("keys"), 1, 0, 2)
        expect(Spy(*BOTH), 1, 2, 2)
        expect(Spy(*BOTH), 1, 0, 0, still)


@pytest.mark.parametrize("name", NAMES)
def test_the_tower_is_left_as_it_is(name):
    """Its output to the bit, and its attention."""
    subject = SUBJECTS[name]()
    want, _ = forward(subject, PROMPTS["two_videos"])
    before = fingerprint(subject.model)
    with attach(subject, Spy(*BOTH)):
        assert tower_of(subject).config._attn_implementation == "sdpa"
        assert torch.equal(forward(subject, PROMPTS["two_videos"])[0], want)
    assert fingerprint(subject.model) == before


@pytest.mark.parametrize("name", NAMES)
def test_one_layer_is_remembered_and_only_until_the_language_model(name):
    subject, spy, counts = SUBJECTS[name](), Spy(*BOTH), []
    with remembered(subject) as alive, attach(subject, spy):
        compress = spy.compress
        spy.compress = lambda video: (counts.append(alive()), compress(video))[1]
        language = subject.language_model().register_forward_pre_hook(lambda *_: counts.append(alive()))
        forward(subject, PROMPTS["two_videos"])
        assert alive() == 0
        greedy(subject, PROMPTS["two_videos"], max_new_tokens=2, num_beams=2)
        assert alive() == 0
        language.remove()
    assert counts[:3] == [1, 1, 0] and max(counts) == 1 and counts[-1] == 0


class Broken(Spy):
    def compress(self, video):
        raise RuntimeError("broken compressor")


@pytest.mark.parametrize("where", ["compressor", "projector", "tower", "language model", "too short", "layout"])
@pytest.mark.parametrize("name", NAMES)
def test_a_failed_request_leaves_nothing_behind(name, where):
    subject = SUBJECTS[name]()
    model, inner = subject.model, subject.model.model
    prompts, spy = PROMPTS["two_videos"], Spy(*BOTH)
    reference, is_hf = Reference(subject), isinstance(subject, HFSubject)

    def fail(*_):
        raise RuntimeError(f"broken {where}")

    module = {
        "projector": inner.multi_modal_projector if is_hf else inner.mm_projector,
        "language model": subject.language_model().layers[0],
        "tower": tower_of(subject).encoder.layers[2].mlp,
    }.get(where)
    chosen = {"compressor": Broken(*BOTH), "too short": Spy(*BOTH, min_frames=9)}.get(where, spy)
    error = "Spy needs at least 9 frames, got 8; accepted: more" if where == "too short" else "broken"
    inputs = subject.inputs(prompts)
    if where == "layout":  # behind the tower, ahead of the compressor
        error = "tokens: |mm_spatial_pool_mode"
        if is_hf:
            inputs["input_ids"][0, 0] = HF_VIDEO
        else:
            mode, model.config.mm_spatial_pool_mode = model.config.mm_spatial_pool_mode, "broken"
    with remembered(subject) as alive, attach(subject, chosen), torch.no_grad():
        hook = None if module is None else module.register_forward_pre_hook(fail)
        for call in (model.generate, model):
            with pytest.raises((RuntimeError, ValueError), match=error):
                call(**inputs)
            assert alive() == 0
        if hook is not None:
            hook.remove()
        if where == "layout" and not is_hf:
            model.config.mm_spatial_pool_mode = mode
        if chosen is spy:
            spy.seen.clear()
            greedy(subject, prompts, max_new_tokens=1)
            check(subject, reference, spy, videos_of(prompts))


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_worked_out_a_few_at_a_time(name, monkeypatch):
    subject, spy = SUBJECTS[name](), Spy(*BOTH)
    reference = Reference(subject)
    patches = 36 if name == "hf" else 64 + (name == "llava_clip")
    monkeypatch.setattr("dycoke.stages.tower._SCORES", 3 * (2 if name == "hf" else 4) * patches**2 + 1)
    with counting(subject) as calls, attach(subject, spy):
        forward(subject, PROMPTS["one_video"])
        assert max(calls.values()) == 1 + 3  # 8 frames, three at a time
    check(subject, reference, spy, videos_of(PROMPTS["one_video"]))


@pytest.mark.parametrize("name", NAMES)
def test_its_time_is_that_of_the_compressor(name):
    subject, open_stages = SUBJECTS[name](), []
    layer = tower_of(subject).encoder.layers[2]
    with attach(subject, Spy("saliency")) as run:
        hook = layer.self_attn.q_proj.register_forward_hook(lambda *_: open_stages.append(set(run._recorder._open)))
        forward(subject, PROMPTS["one_video"])
        hook.remove()
    assert open_stages == [{"vision"}, {"compress"}]


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_a_model_that_goes_away_is_not_held(name):
    subject = SUBJECTS[name]()
    run = dycoke.apply(subject.model, dycoke.Plan(before=Spy(*BOTH)))
    forward(subject, PROMPTS["one_video"])
    layer = weakref.ref(tower_of(subject).encoder.layers[2])
    del subject
    gc.collect()
    assert layer() is None and run.report


def test_a_tower_that_cannot_be_probed():
    unloaded = llava()
    unloaded.model.get_vision_tower().vision_tower = None
    with pytest.raises(ValueError, match="Spy needs saliency of the vision tower, which is not loaded"):
        attach(unloaded, Spy("saliency")).__enter__()
    before_any = clip_llava(mm_vision_select_layer=0)
    with pytest.raises(ValueError, match="Spy needs keys of the last layer of the vision tower"):
        attach(before_any, Spy("keys")).__enter__()
    other = hf()
    other.model.model.vision_tower.config.model_type = "other"
    before = fingerprint(other.model)
    with pytest.raises(ValueError, match="here SiglipVisionModel; supported: SigLIP, CLIP"):
        attach(other, Spy("saliency")).__enter__()
    assert fingerprint(other.model) == before


@torch.no_grad()
def test_videos_encoded_while_nothing_was_attached():
    subject = hf()
    if "mm_encoder_outputs" not in inspect.signature(subject.model.forward).parameters:
        pytest.skip("this transformers takes no features")
    inputs = subject.inputs(PROMPTS["one_video"])
    features = subject.model.get_video_features(inputs.pop("pixel_values_videos"), return_dict=True)
    with attach(subject, Spy()):
        subject.model(**inputs, mm_encoder_outputs={"video": features})
    with attach(subject, Spy("saliency")), pytest.raises(ValueError, match=r"1 videos of 8 frames .* had 0 frames"):
        subject.model(**inputs, mm_encoder_outputs={"video": features})
