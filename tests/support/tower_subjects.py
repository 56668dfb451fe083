"""Models whose vision towers are probed, what an eager run of a tower says, and a compressor that looks."""

from __future__ import annotations

import copy
import gc
import math
from contextlib import contextmanager

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaOnevisionForConditionalGeneration

import dycoke
from dycoke.types import Compressed
from llava.model.layout import pool_frames
from tests.llava import tiny
from tests.support.subjects import HF_IMAGE, HF_VIDEO, Clip, HFSubject, LlavaSubject

BOTH = ("saliency", "keys")


class Spy:
    """A compressor that keeps everything, and what it was handed."""

    positions, raster = "packed", True

    def __init__(self, *needs: str, vision_head: str = "", min_frames: int = 1) -> None:
        self.needs, self.vision_head, self.min_frames, self.seen = frozenset(needs), vision_head, min_frames, []

    def compress(self, video):
        self.seen.append(video)
        embeds = video.embeds.flatten(0, 1)
        return Compressed(embeds, torch.arange(len(embeds)))

    def count(self, frames, per_frame):
        return frames * per_frame


def tower_of(subject):
    """transformers' SigLIP or CLIP model in a subject."""
    model = subject.model
    return model.model.vision_tower if isinstance(subject, HFSubject) else model.get_vision_tower().vision_tower


def attach(subject, compressor):
    return dycoke.attach(subject.model, dycoke.Plan(before=compressor))


def llava(**overrides) -> LlavaSubject:
    """An OneVision model of our package; its side follows from the tower's."""
    subject = LlavaSubject()
    subject.model = tiny.make_model(tiny.onevision_config(**overrides))
    subject.side = subject.model.get_vision_tower().image_size
    return subject


def clip_llava(**overrides) -> LlavaSubject:
    subject = LlavaSubject(family="llama")
    subject.model = tiny.make_model(tiny.llama_config(mm_spatial_pool_mode="average", **overrides))
    return subject


def hf(patches: int = 6, clip: bool = False, layer=-1) -> HFSubject:
    """transformers' model with patches x patches a frame."""
    config = tiny.hf_config(HF_IMAGE, HF_VIDEO, vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if clip:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
        config.vision_config = CLIPVisionConfig(**shape, patch_size=4)
        config.vision_feature_select_strategy = "default"
    config.vision_config.image_size = patches * 4
    config.vision_config.num_hidden_layers = 3
    config.vision_feature_layer, config.image_grid_pinpoints = layer, [[patches * 4, patches * 4]]
    subject = HFSubject()
    subject.model = LlavaOnevisionForConditionalGeneration(config).eval()
    tiny.fill_randomly(subject.model)
    subject.side, side = patches * 4, math.ceil(patches / 2)
    subject.grid = (side, side)
    subject._ids = lambda part: hf_ids(part, side * side, patches)
    return subject


def hf_ids(part, per_frame: int, patches: int) -> list[int]:
    if not isinstance(part, Clip):
        return [part]
    if part.frames:
        return [HF_VIDEO] * (part.frames * per_frame + 1)
    return [HF_IMAGE] * (patches**2 + patches * (patches + 1))


ODD = tiny.vision_config("siglip", image_size=98)  # 7 x 7 patches
SUBJECTS = {
    "llava": llava,
    "llava_odd_bilinear": lambda: llava(vision_config=ODD),
    "llava_odd_average": lambda: llava(vision_config=ODD, mm_spatial_pool_mode="average"),
    "llava_odd_max": lambda: llava(vision_config=ODD, mm_spatial_pool_mode="max"),
    "llava_clip": clip_llava,
    "llava_clip_layer_1": lambda: clip_llava(mm_vision_select_layer=1),
    "hf": hf,
    "hf_odd": lambda: hf(7),
    "hf_clip": lambda: hf(clip=True, layer=-2),
    "hf_layer_1": lambda: hf(layer=1),
    "hf_layers": lambda: hf(layer=[-3, 2]),
}
NAMES = ["llava", "llava_clip", "hf"]


class Reference:
    """A copy of a model whose tower runs with eager attention and gives its maps away."""

    def __init__(self, subject) -> None:
        self.subject, model = subject, copy.deepcopy(subject.model)
        self.model = model
        if isinstance(subject, HFSubject):
            self.tower, layers = model.model.vision_tower, model.config.vision_feature_layer
            total = model.config.vision_config.num_hidden_layers
            self.layers = [layer % (total + 1) for layer in (layers if isinstance(layers, list) else [layers])]
        else:
            self.tower, self.layers = model.get_vision_tower().vision_tower, [model.get_vision_tower().depth]
        self.tower.set_attn_implementation("eager")
        self.clip = isinstance(self.tower, CLIPVisionModel)

    @torch.no_grad()
    def of(self, clip: Clip) -> dict[str, torch.Tensor]:
        """embeds [T, N, D], saliency [T, N], keys [T, N, Dk] and hidden [T, P, C] of a video."""
        pixels, depth, keys = clip.pixels(self.subject.side), max(self.layers), []
        hook = self.tower.encoder.layers[depth - 1].self_attn.k_proj.register_forward_hook(
            lambda module, args, out: keys.append(out)
        )
        out = self.tower(pixels, output_attentions=True, output_hidden_states=True)
        hook.remove()
        hidden = torch.cat([out.hidden_states[layer] for layer in self.layers], dim=-1)
        weights = out.attentions[depth - 1]
        keys = torch.stack(keys[0].chunk(weights.shape[1], dim=-1)).mean(0)
        saliency = weights.mean((1, 2))
        if self.clip:
            hidden, keys, saliency = hidden[:, 1:], keys[:, 1:], weights[:, :, 0, 1:].mean(1)
        return {
            "embeds": self.pool(self.project(hidden), features=True),
            "saliency": self.pool(saliency[..., None])[..., 0],
            "keys": self.pool(keys),
            "hidden": hidden,
        }

    def project(self, hidden):
        inner = self.model.model
        return (inner.multi_modal_projector if isinstance(self.subject, HFSubject) else inner.mm_projector)(hidden)

    def pool(self, values, features: bool = False):
        """As the model pools features; what is a mean is not pooled by the maximum."""
        if isinstance(self.subject, HFSubject):
            return self.model.model.apply_pooling(values)
        mode, side = self.model.config.mm_spatial_pool_mode, math.isqrt(values.shape[1])
        return pool_frames(values, side, mode if features or mode != "max" else "average")[0]


def videos_of(prompts) -> list[Clip]:
    return [part for row in prompts for part in row if isinstance(part, Clip) and part.frames]


def clip_of(video, known: dict) -> Clip:
    """Which clip a video's tokens are."""
    same = [
        clip
        for clip, own in known.items()
        if own["embeds"].shape == video.embeds.shape and torch.allclose(own["embeds"], video.embeds, atol=1e-4)
    ]
    assert len(same) == 1
    return same[0]


def check(subject, reference, spy, clips, names=BOTH) -> None:
    """Each video the compressor was handed carries what an eager run says of that very video."""
    known = {clip: reference.of(clip) for clip in set(clips)}
    found = [clip_of(video, known) for video in spy.seen]
    assert sorted(map(str, found)) == sorted(map(str, clips))
    for video, clip in zip(spy.seen, found, strict=True):
        for name in BOTH:
            value = getattr(video, name)
            if name not in names:
                assert value is None
                continue
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, known[clip][name], atol=1e-5, rtol=1e-4)
        assert video.scenes is None and video.query is None
        assert video.saliency is None or video.saliency.std() > 1e-4  # all alike would prove nothing


@contextmanager
def counting(subject):
    """Calls of q_proj and k_proj of every layer of the tower."""
    tower = tower_of(subject)
    calls, hooks = {}, []
    for number, layer in enumerate(tower.encoder.layers):
        for name in ("q_proj", "k_proj"):
            calls[number, name] = 0

            def count(*_, key=(number, name)):
                calls[key] += 1

            hooks.append(getattr(layer.self_attn, name).register_forward_hook(count))
    yield calls
    for hook in hooks:
        hook.remove()


@contextmanager
def remembered(subject, outputs: bool = False):
    """How many tensors are still alive that the attention of the tower's layers has read, or that the layers gave."""
    storages = []

    def note(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        storages.append(StorageWeakRef(hidden.untyped_storage()))

    layers = tower_of(subject).encoder.layers
    hooks = [layer.self_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    if outputs:
        hooks += [layer.register_forward_hook(lambda module, args, out: note(module, (out,), {})) for layer in layers]

    gc.freeze()  # or every collection would look through all of transformers

    def alive() -> int:
        gc.collect()
        return sum(not storage.expired() for storage in storages)

    yield alive
    gc.unfreeze()
    for hook in hooks:
        hook.remove()
