"""Pixels made by torch, on the model's device, against those of the image processors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaOnevisionVideoProcessor, SiglipVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dycoke.nano.samples import read_samples
from dycoke.video.frames import read_frames
from dycoke.video.pixels import FrameSettings, frames_on
from llava.model.multimodal_encoder.processors import build_image_processor
from tests.cases import folded

NOISE = [(97, 131), (361, 641), (64, 64), (33, 500), (131, 97), (384, 501), (112, 112), (720, 480)]


def siglip(side: int = 384):
    return build_image_processor("siglip", SiglipVisionConfig(image_size=side))


def clip(side: int = 336):
    return build_image_processor("clip", CLIPVisionConfig(image_size=side))


def noise(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def made_by(processor, frames: np.ndarray) -> torch.Tensor:
    return processor.preprocess(frames, return_tensors="pt")["pixel_values"].float()


def steps(processor, pixels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Differences of two results in steps of 1/255 of the range."""
    assert pixels.shape == others.shape
    std = torch.tensor(processor.image_std)[:, None, None]
    return (pixels - others).abs() * std / processor.rescale_factor


def squeezed(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """PIL's frames, the width made first, which one call leaves to the release of Pillow."""
    height, width = size
    images = [Image.fromarray(frame).resize((width, len(frame)), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.array(image.resize((width, height), Image.Resampling.BICUBIC)) for image in images])


def off_by(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    plain = FrameSettings(size, "bicubic", None, 1.0, (0.0,) * 3, (1.0,) * 3)
    return np.abs(plain(frames, "cpu", torch.float32).permute(0, 2, 3, 1).numpy() - squeezed(frames, size))


@pytest.mark.parametrize("side", [384, 112, 37])
@pytest.mark.parametrize("sample", read_samples(), ids=lambda sample: sample.video.stem)
def test_the_sample_videos(sample, side):
    frames = read_frames(sample.video, 4)
    for each in (frames, frames[:, :, 20:90], frames[:, 20:90]):
        off = off_by(each, (side, side))
        assert off.max() <= 2
        assert off.mean() < 0.008
    off = steps(
        siglip(side), FrameSettings.of(siglip(side))(frames, "cpu", torch.float32), made_by(siglip(side), frames)
    )
    assert off.max() < 2.001
    assert off.mean() < 0.008


@folded("size", NOISE)
@pytest.mark.parametrize("to", [(384, 384), (112, 112), (56, 100), (37, 211)])
def test_noise_of_odd_sizes(size, to):
    off = off_by(noise(*size), to)
    assert off.max() <= 2
    assert off.mean() < 0.006


@folded("size", [(97, 131), (300, 533), (64, 64), (240, 180)])
@folded("processor", [siglip(), clip(), clip(280)])
def test_noise_through_a_processor(processor, size):
    """Sizes at which every Pillow makes the width first."""
    frames = noise(*size)
    off = steps(processor, FrameSettings.of(processor)(frames, "cpu", torch.float32), made_by(processor, frames))
    assert off.max() < 2.001
    assert off.mean() < 0.003


@pytest.mark.parametrize("resample", [2, 3])
def test_the_processors_own_settings_are_used(resample):
    given = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 0.01, "resample": resample}
    processor = CLIPImageProcessorPil(size={"height": 40, "width": 56}, crop_size={"height": 31, "width": 50}, **given)
    pixels = FrameSettings.of(processor)(noise(77, 99), "cpu", torch.float32)
    assert pixels.shape == (2, 3, 31, 50)
    assert steps(processor, pixels, made_by(processor, noise(77, 99))).max() < 1.001


def test_steps_that_are_left_out():
    for given in ({"do_resize": False}, {"do_rescale": False}, {"do_normalize": False}, {"do_center_crop": False}):
        processor = CLIPImageProcessorPil(**{"do_center_crop": False, "size": {"height": 48, "width": 64}, **given})
        pixels = FrameSettings.of(processor)(noise(48, 48), "cpu", torch.float32)
        expected = made_by(processor, noise(48, 48))
        step = 1 / min(FrameSettings.of(processor).std) * FrameSettings.of(processor).factor
        assert pixels.shape == expected.shape
        assert (pixels - expected).abs().max() < 1.001 * step, given
    assert FrameSettings.of(CLIPImageProcessorPil(do_resize=False, do_center_crop=False)).size is None


def test_videos_of_transformers_are_off_by_one_at_most():
    """Its processor resizes by torchvision, which differs from PIL by as much."""
    looks = {"size": {"height": 96, "width": 96}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = LlavaOnevisionVideoProcessor(**looks)
    frames = read_frames(read_samples()[0].video, 4)
    expected = processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    off = steps(processor, FrameSettings.of(processor)(frames, "cpu", torch.float32), expected)
    assert off.max() < 1.001
    assert off.mean() < 0.05


def test_chunks_tensors_and_dtypes():
    settings, frames = FrameSettings.of(siglip(112)), noise(97, 131, 5)
    whole = settings(frames, "cpu", torch.float32)
    for chunk in (1, 2 * 4 * 3 * 97 * 131):
        assert torch.equal(settings(frames, "cpu", torch.float32, chunk), whole)
    assert torch.equal(settings(torch.from_numpy(frames), "cpu", torch.float32), whole)
    assert torch.equal(
        settings(frames[:, ::-1], "cpu", torch.float32), settings(frames[:, ::-1].copy(), "cpu", torch.float32)
    )
    assert torch.equal(settings(frames, "cpu", torch.bfloat16), whole.bfloat16())


def test_memory_is_bounded_by_the_chunk(monkeypatch):
    settings, seen = FrameSettings.of(siglip(112)), []
    chunk = FrameSettings._chunk
    monkeypatch.setattr(FrameSettings, "_chunk", lambda self, part: seen.append(len(part)) or chunk(self, part))
    settings(noise(97, 131, 5), "cpu", torch.float32, 2 * 4 * 3 * 97 * 131)
    assert seen == [2, 2, 1]


class Odd:
    """A processor nobody knows."""


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (Odd(), "Odd cannot be reproduced on the device, for its class is not one of CLIPImageProcessor"),
        (CLIPImageProcessorPil(do_pad=True), "do_pad=True"),
        (CLIPImageProcessorPil(resample=1), "resample="),
        (CLIPImageProcessorPil(size={"shortest_edge": 200, "longest_edge": 300}), "'longest_edge': 300"),
        (CLIPImageProcessorPil(size={"shortest_edge": 200}), "pads frames of size 200 to a crop of (224, 224)"),
        (CLIPImageProcessorPil(do_resize=False), "pads frames of size None"),
        (LlavaOnevisionVideoProcessor(do_sample_frames=True), "do_sample_frames=True"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(processor, words):
    with pytest.raises(ValueError) as raised:
        FrameSettings.of(processor)
    assert words in str(raised.value) and "preprocess='exact'" in str(raised.value)
    assert frames_on("auto", processor, "cuda") is None
    assert frames_on("exact", processor, "cuda") is None


@pytest.mark.parametrize(
    "frames",
    [noise(8, 8)[0], noise(8, 8)[:0], noise(8, 8).astype(np.float32), noise(8, 8).transpose(0, 3, 1, 2)],
)
def test_other_frames_are_refused(frames):
    with pytest.raises(ValueError, match=r"expected \[T, H, W, 3\] uint8"):
        FrameSettings.of(siglip(56))(frames, "cpu", torch.float32)


def test_the_route():
    settings = FrameSettings.of(siglip())
    assert [frames_on(route, siglip(), "cuda") for route in ("auto", "exact", "device")] == [settings, None, settings]
    assert [frames_on(route, siglip(), "cpu") for route in ("auto", "exact", "device")] == [None, None, settings]
    with pytest.raises(ValueError, match="preprocess='fast': expected one of auto, exact, device"):
        frames_on("fast", siglip(), "cpu")
