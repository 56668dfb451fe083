"""On a GPU: frames as on the CPU, and a real end of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dycoke
from dycoke.offline.generate import generate_many
from dycoke.video.pixels import FrameSettings
from tests.cases import folded
from tests.support.subjects import SUBJECTS, Clip

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SIGLIP = FrameSettings((384, 384), "bicubic", None, 1 / 255, (0.5,) * 3, (0.5,) * 3)


@folded("mode", ["bicubic", "bilinear"])
@folded("size", [(97, 131), (361, 641), (64, 64), (33, 500), (720, 1280), (2160, 3840), (3840, 2160)])
def test_pixels_are_those_of_the_cpu(size, mode):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    settings = FrameSettings((384, 384), mode, None, 1.0, (0.0,) * 3, (1.0,) * 3)
    off = (settings(frames, "cuda", torch.float32).cpu() - settings(frames, "cpu", torch.float32)).abs()
    assert off.max() <= 2
    # Where frames grow by whole factors many values lie between two steps, and either is right.
    assert off.mean() < (0.01 if mode == "bicubic" else 0.1)


def test_memory_stays_bounded():
    frames = np.zeros((64, 720, 1280, 3), dtype=np.uint8)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pixels = SIGLIP(frames, "cuda", torch.bfloat16)
    assert pixels.shape == (64, 3, 384, 384)
    chunk, held = 256 * 2**20, 2 * pixels.numel() * 2  # the parts, and what they are joined to
    assert torch.cuda.max_memory_allocated() - before < 3 * chunk + held


def test_a_batch_out_of_memory_is_cut_in_two():
    subject = SUBJECTS["llava"]()
    subject.model.cuda()
    given = [subject.inputs([[5, Clip(32, seed), 7, 8]]) for seed in range(16)]
    greedy = {"max_new_tokens": 8, "do_sample": False}
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.5, l=1)):
        expected = [generate_many(subject.model, [each], **greedy)[0].tolist() for each in given]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        generate_many(subject.model, given[:6], **greedy)
        room = torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(room)
        try:
            with pytest.warns(UserWarning, match="ran out of GPU memory"):
                answers = generate_many(subject.model, given, **greedy)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert [each.tolist() for each in answers] == expected
