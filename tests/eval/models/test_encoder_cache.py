"""Videos encoded once: the same answers, fewer calls of the tower, and times that say so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dycoke
from dycoke.eval.models.dycoke_hf import LlavaOnevisionHF
from dycoke.eval.models.encoder_cache import EncoderCache
from tests.cli import files
from tests.eval.models.asking import answer, keeping
from tests.eval.models.conftest import METHODS, Models


class Counting(nn.Module):
    """Stands in for a llava model; its tokens are the pixels' mean by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images.flatten(1).mean(1)[:, None, None]


def test_the_last_ones_are_kept():
    model = Counting()
    EncoderCache(model, 2)
    a, b, c = (torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    first = model.encode_images(a)
    assert torch.equal(first, a.mean((1, 2, 3))[:, None, None])
    assert model.encode_images(a.clone()) is first and model.calls == 1
    model.encode_images(b)
    model.encode_images(a)
    model.encode_images(c)  # in the place of b, which was asked for longest ago
    assert model.calls == 3
    assert model.encode_images(a) is first and model.calls == 3
    model.encode_images(b)
    assert model.calls == 4


def test_what_differs_is_encoded_anew():
    """In one pixel, in shape or in dtype alone."""
    model = Counting()
    EncoderCache(model, 9)
    zeros = torch.zeros(2, 3, 8, 8)
    other = zeros.clone()
    other[1, 2, 7, 7] = 1e-3
    for calls, images in enumerate((zeros, other, zeros.view(2, 3, 4, 16), zeros.bfloat16(), zeros[:1]), 1):
        model.encode_images(images)
        assert model.calls == calls


@pytest.mark.parametrize("videos", [0, -1])
def test_a_size_out_of_range_is_refused(videos):
    with pytest.raises(ValueError, match=f"videos={videos}"):
        EncoderCache(Counting(), videos)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_the_same_and_one_video_is_encoded_once(models: Models, asked, name):
    """The last question is about the first question's video; questions are asked longest first."""
    given, _ = METHODS[name]
    plain, kept = (models.ours(**given, dtype="float32", **more) for more in ({}, {"encoder_cache": 9}))
    lines = keeping(plain), keeping(kept)
    assert answer(plain, asked) == answer(kept, asked)
    timed = [[line["ms"]["vision"] is not None for line in each.lines] for each in lines]
    assert all(timed[0]) and sorted(timed[1]) == [False, True, True, True, True]
    for one, two in zip(*(each.lines for each in lines), strict=True):
        assert {**one, "ms": 0, "peak_bytes": 0} == {**two, "ms": 0, "peak_bytes": 0}


def test_methods_that_watch_the_tower_have_every_video_encoded(onevision, asked):
    given = {"method": "visionzip", "keep": 0.5, "dtype": "float32"}
    model = onevision.ours(**given, encoder_cache=9)
    lines = keeping(model).lines
    assert answer(model, asked) == answer(onevision.ours(**given), asked)
    assert all(line["ms"]["vision"] > 0 for line in lines)
    model.use(dycoke.build("full"), keeping(model))  # and the next method has them kept again
    answer(model, asked)
    assert sum(line["ms"]["vision"] is None for line in model.samples.lines) == 1


def test_the_class_for_transformers_refuses_it(tmp_path):
    checkpoint = files.write_hf_checkpoint(tmp_path / "hf")
    with pytest.raises(ValueError, match="encoder_cache=3: dycoke_hf encodes every video"):
        LlavaOnevisionHF(str(checkpoint), device="cpu", encoder_cache=3)
