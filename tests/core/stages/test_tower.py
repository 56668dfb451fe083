"""What compressors get from the vision tower equals an eager run of it, and belongs to the tokens it comes with."""

import pytest
import torch

from dycoke.stages.tower import pool, video_rows
from llava.model.layout import pool_frames
from tests.support.subjects import PROMPTS, Clip, forward, greedy
from tests.support.tower_subjects import (
    BOTH,
    NAMES,
    SUBJECTS,
    Reference,
    Spy,
    attach,
    check,
    clip_of,
    hf,
    llava,
    videos_of,
)

STILLS = Clip(None, 4), Clip(None, 5)
MIXED = {
    "llava": [[5, Clip(3, 1), 6, STILLS[0], 7, Clip(5, 2)], [4, STILLS[1], Clip(2, 3)], [4, 9], [8, Clip(1, 6)]],
    "hf": [[5, Clip(8, 1), 6, STILLS[0], 7, 9], [4, STILLS[1], Clip(8, 2)], [4, 9], [8, Clip(8, 3), Clip(8, 6)]],
}


@pytest.mark.parametrize("prompt", ["one_video", "two_videos", "videos_side_by_side", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_saliency_and_keys_are_those_of_an_eager_run(name, prompt):
    subject, spy = SUBJECTS[name](), Spy(*BOTH)
    reference = Reference(subject)
    with attach(subject, spy):
        greedy(subject, PROMPTS[prompt], max_new_tokens=2)
    check(subject, reference, spy, videos_of(PROMPTS[prompt]))


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_tower_layer_and_pooling_beside_images(name):
    """Videos of several lengths, where the family allows them, images between them, a row of text."""
    subject, spy = SUBJECTS[name](), Spy(*BOTH)
    reference, prompts = Reference(subject), MIXED["hf" if name.startswith("hf") else "llava"]
    if name.startswith("llava_odd"):  # its pictures would need other grids
        prompts = [[part for part in row if part not in STILLS] for row in prompts]
    with attach(subject, spy):
        forward(subject, prompts)
    check(subject, reference, spy, videos_of(prompts))


@pytest.mark.parametrize("needs", [("saliency",), ("keys",)])
@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_needed(name, needs):
    subject, spy = SUBJECTS[name](), Spy(*needs)
    reference = Reference(subject)
    with attach(subject, spy):
        forward(subject, PROMPTS["two_videos"])
    check(subject, reference, spy, videos_of(PROMPTS["two_videos"]), needs)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
@pytest.mark.parametrize("name", NAMES)
def test_beams_and_return_sequences(name, options):
    """transformers repeats rows, and by its release pixels or features with them; ours packs before rows repeat."""
    subject, spy = SUBJECTS[name](), Spy(*BOTH)
    reference, prompts = Reference(subject), [[5, Clip(8, 1), 7, 8], [6, 9, 4], [Clip(8, 2), 5]]
    with attach(subject, spy):
        greedy(subject, prompts, max_new_tokens=2, **options)
    times = max(options.get("num_beams", 1), options.get("num_return_sequences", 1)) if name == "hf" else 1
    check(subject, reference, spy, videos_of(prompts) * times)


def test_beams_of_rows_with_several_videos():
    """Each video has its own saliency, whichever of them a release of transformers puts where."""
    subject, spy = hf(), Spy(*BOTH)
    reference, prompts = Reference(subject), PROMPTS["two_videos"] * 2
    clips = videos_of(PROMPTS["two_videos"])
    with attach(subject, spy):
        greedy(subject, prompts, max_new_tokens=1, num_beams=2)
    known = {clip: reference.of(clip) for clip in clips}
    assert len(spy.seen) == 8
    for video in spy.seen:
        torch.testing.assert_close(video.saliency, known[clip_of(video, known)]["saliency"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_cache_every_step_knows_the_tower(name):
    """Some releases encode before the first step and then read the prompt again at each."""
    subject, spy, prompts = SUBJECTS[name](), Spy(*BOTH), PROMPTS["two_videos"]
    reference = Reference(subject)
    options = {"max_new_tokens": 3, "eos_token_id": None}
    want = greedy(subject, prompts, **options)
    with attach(subject, spy):
        assert torch.equal(greedy(subject, prompts, use_cache=False, **options), want)
    check(subject, reference, spy, videos_of(prompts) * (3 if name == "hf" else 1))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_query_is_the_embedded_text_of_the_row(name, side):
    """Of its own row, without padding, images and newlines; nothing of the tower is worked out for it."""
    subject, spy = SUBJECTS[name](), Spy("query")
    prompts = MIXED["hf" if name == "hf" else "llava"]
    inputs = subject.inputs(prompts)
    if side != ("left" if name == "hf" else "right"):  # put the padding at the other side
        padding = (inputs["attention_mask"] == 0).sum(1).tolist()
        for key in ("input_ids", "attention_mask"):
            rolled = [row.roll(-n if name == "hf" else n) for row, n in zip(inputs[key], padding, strict=True)]
            inputs[key] = torch.stack(rolled)
    with attach(subject, spy):
        subject.model(**inputs)
    texts = [[part for part in row if not isinstance(part, Clip)] for row in prompts for _ in videos_of([row])]
    table = subject.model.get_input_embeddings()
    assert len(spy.seen) == len(texts)
    for video, ids in zip(spy.seen, texts, strict=True):
        assert torch.equal(video.query, table(torch.tensor(ids)))
        assert video.saliency is None and video.keys is None and video.scenes is None


def test_a_tower_in_half_precision_has_its_softmax_in_full():
    subject, spy = llava(mm_spatial_pool_mode="average"), Spy(*BOTH)
    subject.model.to(torch.bfloat16)
    with attach(subject, spy):
        forward(subject, PROMPTS["one_video"])
    (video,) = spy.seen
    assert video.embeds.dtype == torch.bfloat16 and video.saliency.dtype == video.keys.dtype == torch.float32
    # Every query spreads an attention of 1 over the patches of its frame; a token is the mean of four.
    torch.testing.assert_close(4 * video.saliency.sum(1), torch.ones(8), atol=1e-5, rtol=0)


def test_videos_are_found_in_the_tower_call():
    def flat(videos, encoded):
        return [[(s.start, s.stop) for s in row] for row in video_rows(videos, encoded)]

    assert flat([[4], [], [4, 4]], 12) == [[(0, 4)], [], [(4, 8), (8, 12)]]
    beams = [[4], [4], [], [], [4, 4], [4, 4]]
    assert flat(beams, 12) == [[(0, 4)], [(0, 4)], [], [], [(4, 8), (8, 12)], [(4, 8), (8, 12)]]
    assert flat(beams, 24)[4:] == [[(8, 12), (12, 16)], [(16, 20), (20, 24)]]
    assert flat([[], []], 0) == [[], []]
    for videos, encoded in (
        ([[4]], 0),
        ([[4]], 3),
        ([[4]], 6),
        ([[4]], 8),
        ([[4, 4], []], 4),
        ([[4, 4]], 4),
        ([[4], [4], [4, 4]], 8),
        ([[4], [2]], 6),
    ):
        with pytest.raises(ValueError, match=f"the latest call of the vision tower had {encoded} frames"):
            video_rows(videos, encoded)


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_pooling_is_that_of_the_features(side):
    values = torch.randn(3, side * side, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pool(values, side, (side, side)), values)
    for mode in ("average", "bilinear"):
        if mode == "average" and side == 1:
            continue
        want, grid = pool_frames(values, side, mode)
        torch.testing.assert_close(pool(values, side, grid), want)
    for grid in ((side + 1, side + 1), (3, 4), (side, 1 + side)):
        with pytest.raises(ValueError, match="no pooling by 2"):
            pool(values, side, grid)
    with pytest.raises(ValueError, match="patches a frame do not make"):
        pool(values, side + 1, (side, side))
