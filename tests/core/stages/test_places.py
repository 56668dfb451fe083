"""Where the tokens of videos stand in a prefill, which a stage inside the language model needs to know."""

from contextlib import ExitStack, contextmanager

import pytest
import torch

from dycoke.families import adapter_for
from dycoke.methods import DynamicPruning
from dycoke.report import Recorder
from dycoke.types import Compressed, Plan
from tests.cases import folded
from tests.core.decode.test_capture import language_model
from tests.support.subjects import PROMPTS, STILLS, SUBJECTS, Clip, HFSubject, LlavaSubject, greedy

LAYOUTS = {**SUBJECTS, "llava_no_token": lambda: LlavaSubject("no_token")}
REORDERING = ["llava", "llava_no_token", "llava_llama", "hf"]
BESIDE_IMAGES = [[5, Clip(8, 1), 6, Clip(None), 7, Clip(8, 2)], [4, Clip(None, 5), 6, Clip(8, 3)], [4, Clip(None), 6]]


class Some:
    """A compressor that keeps some tokens, more of each later video, in raster order or not."""

    needs, positions = frozenset(), "packed"

    def __init__(self, raster: bool) -> None:
        self.raster, self.kept = raster, []

    def compress(self, video):
        total = video.embeds.shape[0] * video.embeds.shape[1]
        generator = torch.Generator().manual_seed(len(self.kept))
        index = torch.randperm(total, generator=generator)[: total // 4 + 3 * len(self.kept)]
        index = index.sort().values if self.raster else index
        self.kept.append(Compressed(video.embeds.flatten(0, 1)[index] + 1, index))
        return self.kept[-1]

    def count(self, frames, per_frame):
        return None


@contextmanager
def watched(subject, compressor):
    """Embeddings and places of each prefill, as the language model's layers are about to read them."""
    adapter, prefills = adapter_for(subject.model), []

    def note(module, args, kwargs):
        if adapter._step is None:
            places = adapter.places()
            assert adapter.places() is None  # it serves one call
            prefills.append((kwargs.get("inputs_embeds"), places))

    with ExitStack() as undo:
        adapter.install(Plan(before=compressor), Recorder("test", [torch.device("cpu")]), undo, None, False)
        hook = subject.language_model().register_forward_pre_hook(note, with_kwargs=True)
        undo.callback(hook.remove)
        yield prefills


def check(subject, compressor, prompts, prefill, times: int = 1) -> None:
    """Every token of a video, and no other, has its place: its embedding is what the compressor gave for that slot."""
    embeds, (video, slots, per_frame) = prefill
    assert per_frame == subject.grid[0] * subject.grid[1]
    assert video.dtype == slots.dtype == torch.int64 and len(embeds) == len(prompts) * times
    kept = iter(compressor.kept)
    for row, prompt in enumerate(prompts):
        clips = [part for part in prompt if isinstance(part, Clip) and part.frames]
        own = [next(kept) for _ in clips]
        for copy in range(times):
            if copy and isinstance(subject, HFSubject):  # rows are compressed where they have been repeated
                own = [next(kept) for _ in clips]
            at = row * times + copy
            where = video[at] >= 0
            assert torch.equal(where, slots[at] >= 0)
            assert (video[at][~where] == -1).all() and (slots[at][~where] == -1).all()
            empty = torch.zeros(0, dtype=torch.int64)
            numbers = [torch.full_like(part.index, i) for i, part in enumerate(own)]
            assert torch.equal(video[at][where], torch.cat([empty, *numbers]))
            assert torch.equal(slots[at][where], torch.cat([empty, *(part.index for part in own)]))
            if own:
                assert torch.equal(embeds[at][where], torch.cat([part.embeds for part in own]))
    assert next(kept, None) is None


@folded("prompt", ["one_video", "two_videos", "videos_side_by_side", "batch"])
@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_every_layout(name, prompt):
    subject, compressor = LAYOUTS[name](), Some(raster=True)
    with watched(subject, compressor) as prefills:
        subject.model(**subject.inputs(PROMPTS[prompt]))
    check(subject, compressor, PROMPTS[prompt], prefills[0])
    assert len(prefills) == 1


@pytest.mark.parametrize("prompt", ["two_videos", "batch"])
@pytest.mark.parametrize("name", REORDERING)
@torch.no_grad()
def test_a_compressor_that_reorders(name, prompt):
    subject, compressor = LAYOUTS[name](), Some(raster=False)
    with watched(subject, compressor) as prefills:
        subject.model(**subject.inputs(PROMPTS[prompt]))
    check(subject, compressor, PROMPTS[prompt], prefills[0])


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_images_beside_videos_are_none(name):
    subject, compressor = LAYOUTS[name](), Some(raster=True)
    with watched(subject, compressor) as prefills:
        subject.model(**subject.inputs(BESIDE_IMAGES))
    check(subject, compressor, BESIDE_IMAGES, prefills[0])


@pytest.mark.parametrize("name", ["llava", "llava_grid", "hf"])
@torch.no_grad()
def test_padding_on_the_other_side(name):
    subject, compressor, prompts = LAYOUTS[name](), Some(raster=True), PROMPTS["batch"]
    with watched(subject, compressor) as prefills:
        if name == "hf":
            inputs = subject.inputs(prompts)
            padding = (inputs["attention_mask"] == 0).sum(1).tolist()
            for key in ("input_ids", "attention_mask"):
                inputs[key] = torch.stack([row.roll(-n) for row, n in zip(inputs[key], padding, strict=True)])
            subject.model(**inputs)
        else:
            greedy(subject, prompts, max_new_tokens=1)
    check(subject, compressor, prompts, prefills[0])


@pytest.mark.parametrize(
    ("times", "options"), [(3, {"num_beams": 3}), (2, {"num_return_sequences": 2, "do_sample": True})]
)
@pytest.mark.parametrize("name", ["llava", "llava_grid", "hf"])
def test_beams_and_return_sequences(name, times, options):
    subject, compressor = LAYOUTS[name](), Some(raster=True)
    prompts = [[5, Clip(8, 1), 7, 8], [6, 9, 4], [Clip(8, 2), 5]]
    with watched(subject, compressor) as prefills:
        greedy(subject, prompts, max_new_tokens=2, **options)
    check(subject, compressor, prompts, prefills[0], times)


@pytest.mark.parametrize("name", ["llava", "hf"])
@torch.no_grad()
def test_without_a_video_there_are_none(name):
    """Of text, as ids and packed, and of pictures, also behind a prompt with a video."""
    subject = LAYOUTS[name]()
    with watched(subject, Some(raster=True)) as prefills:
        for prompts in (PROMPTS["one_video"], PROMPTS["text"], STILLS["image"]):
            subject.model(**subject.inputs(prompts))
            greedy(subject, prompts, max_new_tokens=1)
    assert [places is not None for _, places in prefills] == [True, True, False, False, False, False]


@torch.no_grad()
def test_places_nobody_asked_for_are_none_of_the_next_prompt():
    subject = LAYOUTS["llava"]()
    adapter = adapter_for(subject.model)
    with ExitStack() as undo:
        adapter.install(Plan(before=Some(True)), Recorder("test", [torch.device("cpu")]), undo, None, False)
        subject.model(**subject.inputs(PROMPTS["one_video"]))
        subject.model(**subject.inputs(PROMPTS["text"]))
        assert adapter.places() is None


@torch.no_grad()
def test_a_bare_language_model_knows_none():
    model = language_model("cpu")
    adapter, visual = adapter_for(model), torch.ones(1, 4, dtype=torch.bool)
    with ExitStack() as undo:
        plan = Plan(decode=DynamicPruning(2, 0.5))
        adapter.install(plan, Recorder("test", [torch.device("cpu")]), undo, visual, False)
        model(inputs_embeds=torch.zeros(1, 4, 64))
        assert adapter.places() is None
