"""FastVID's pooling head: read from a SigLIP checkpoint, equal to transformers' own on the features of the tower."""

import json
import shutil

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.core.test_attach import fingerprint
from tests.llava import tiny
from tests.support.subjects import PROMPTS, Clip, forward, greedy
from tests.support.tower_subjects import (
    SUBJECTS,
    Reference,
    Spy,
    attach,
    clip_llava,
    clip_of,
    hf,
    llava,
    remembered,
    tower_of,
    videos_of,
)

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SHAPE, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def vision_model(**overrides) -> SiglipVisionModel:
    model = SiglipVisionModel(SiglipVisionConfig(**{**SHAPE, "image_size": 28, "patch_size": 14, **overrides})).eval()
    tiny.fill_randomly(model)
    with torch.no_grad():  # norms are left at one
        model.post_layernorm.weight.mul_(1.5)
        model.post_layernorm.bias.add_(0.25)
    return model


@pytest.fixture(scope="module", params=["vision model", "with its text model"])
def checkpoint(request, tmp_path_factory):
    """A saved SigLIP model, its folder and its head; the released files have the text model too."""
    folder, model = tmp_path_factory.mktemp("siglip"), vision_model()
    if request.param == "vision model":
        model.save_pretrained(folder)
    else:
        whole = SiglipModel(SiglipConfig(vision_config=model.config.to_dict(), text_config=TEXT))
        whole.vision_model.load_state_dict(model.state_dict())
        whole.save_pretrained(folder)
    return folder, model


def pooled(subject, model, hidden, reference) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes [T, C] and pooled attention [T, N] that transformers' own head makes of features [T, P, C]."""
    maps = []
    hook = model.head.attention.register_forward_hook(lambda module, args, out: maps.append(out[1]))
    with torch.no_grad():
        scenes = model.head(model.post_layernorm(hidden))
    hook.remove()
    return scenes, reference.pool(maps[0].transpose(1, 2))[..., 0]


@pytest.mark.parametrize("needs", [(), ("saliency",), ("keys", "saliency")])
@pytest.mark.parametrize("name", ["llava", "llava_odd_average", "hf", "hf_odd"])
def test_scenes_and_saliency_are_those_of_the_head(name, needs, checkpoint, capfd):
    """Its attention stands for the received one, whose layer is then not hooked."""
    folder, model = checkpoint
    subject, spy = SUBJECTS[name](), Spy(*needs, vision_head=str(folder))
    reference, clips = Reference(subject), videos_of(PROMPTS["two_videos"])
    forward(subject, PROMPTS["one_video"])
    before = fingerprint(subject.model)
    capfd.readouterr()
    with attach(subject, spy):
        assert "UNEXPECTED" not in "".join(capfd.readouterr())  # nothing that looks like a problem
        attention = vars(tower_of(subject).encoder.layers[-1].self_attn)
        assert len(attention["_forward_pre_hooks"]) == ("keys" in needs)
        forward(subject, PROMPTS["two_videos"])
    assert fingerprint(subject.model) == before
    known = {clip: reference.of(clip) for clip in clips}
    assert len(spy.seen) == 2
    for video in spy.seen:
        own = known[clip_of(video, known)]
        scenes, saliency = pooled(subject, model, own["hidden"], reference)
        assert video.scenes.shape == (8, 32) and video.scenes.dtype == video.saliency.dtype == torch.float32
        torch.testing.assert_close(video.scenes, scenes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(video.saliency, saliency, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(video.saliency, own["saliency"], atol=1e-3)
        if "keys" in needs:
            torch.testing.assert_close(video.keys, own["keys"], atol=1e-5, rtol=1e-4)
        else:
            assert video.keys is None


def test_it_follows_the_tower(checkpoint):
    """A tower in half precision has its head in half precision; scenes and saliency are fp32 all the same."""
    folder, _ = checkpoint
    subject, spy = llava(), Spy("saliency", vision_head=str(folder))
    with attach(subject, spy):
        subject.model.to(torch.bfloat16)
        forward(subject, PROMPTS["one_video"])
        subject.model.to(torch.float32)
        forward(subject, PROMPTS["one_video"])
    half, full = spy.seen
    assert half.scenes.dtype == half.saliency.dtype == torch.float32
    torch.testing.assert_close(half.scenes, full.scenes, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_nothing_stays_behind(name, checkpoint):
    subject, spy = SUBJECTS[name](), Spy(vision_head=str(checkpoint[0]))
    with remembered(subject, outputs=True) as alive, attach(subject, spy):
        greedy(subject, PROMPTS["two_videos"], max_new_tokens=1)
        assert spy.seen[0].scenes is not None and alive() == 0


def test_a_home_directory_is_one(checkpoint, monkeypatch):
    folder, _ = checkpoint
    monkeypatch.setenv("HOME", str(folder.parent))
    with attach(llava(), Spy(vision_head=f"~/{folder.name}")):
        pass


def test_what_cannot_be_read_is_named(tmp_path):
    good, narrow, headless, clip, empty, other = (
        tmp_path / name for name in ["good", "narrow", "headless", "clip", "empty", "other"]
    )
    vision_model().save_pretrained(good)
    vision_model(hidden_size=16).save_pretrained(narrow)
    vision_model(vision_use_head=False).save_pretrained(headless)
    CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=28, patch_size=14)).save_pretrained(clip)
    shutil.copytree(good, empty)
    (empty / "model.safetensors").unlink()
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llava"}))
    for subject in (llava(), hf()):
        before = fingerprint(subject.model)
        for path, error, text in (
            (tmp_path / "nowhere", FileNotFoundError, "expected the folder of a SigLIP checkpoint; no .*config.json"),
            (good / "model.safetensors", FileNotFoundError, "expected the folder of a SigLIP checkpoint"),
            (empty, FileNotFoundError, "no weights in"),
            (narrow, ValueError, "a head 16 wide; the vision tower is 32 wide"),
            (headless, ValueError, "its weights lack head.attention"),
            (clip, ValueError, "of type 'clip_vision_model'; expected a SigLIP one"),
            (other, ValueError, "of type 'llava'; expected a SigLIP one"),
        ):
            with pytest.raises(error, match=text) as raised, attach(subject, Spy(vision_head=str(path))):
                raise AssertionError("it was attached")
            assert f"vision_head={str(path)!r}" in str(raised.value)
        assert fingerprint(subject.model) == before
    with pytest.raises(ValueError, match="a SigLIP pooling head; the vision tower is CLIPVisionModel"):
        attach(clip_llava(), Spy(vision_head=str(good))).__enter__()


def test_images_need_no_head(checkpoint):
    subject, spy = llava(), Spy("saliency", vision_head=str(checkpoint[0]))
    with attach(subject, spy):
        forward(subject, [[5, Clip(None), 6]])
    assert not spy.seen
