"""The drawn videos: repeatable, and showing what their annotation says."""

from itertools import pairwise

import pytest
import torch

from dycoke.nano.generator import FRAMES, render, sample_scenes
from dycoke.nano.generator.randomness import mix, permutation, uniform
from dycoke.nano.generator.render import _GLYPHS, _RGB, NO_DIGIT
from dycoke.nano.generator.scene import DIRECTIONS, EVENT_GAP, OBJECTS, SHORTEST

SEEDS = torch.arange(24)


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(SEEDS)


def times(*moments: float, rows: int = len(SEEDS)) -> torch.Tensor:
    return torch.tensor(moments).expand(rows, len(moments)).contiguous()


def test_mix_is_splitmix64():
    # first two outputs of the published generator for state 0
    golden = 0x9E3779B97F4A7C15
    states = torch.tensor([golden - (1 << 64), (2 * golden) % (1 << 64)])
    assert [x % (1 << 64) for x in mix(states).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_numbers_are_uniform_and_streams_differ():
    drawn = uniform(torch.arange(200), 3, 500)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert torch.histc(drawn, 10, 0, 1).div(drawn.numel()).sub(0.1).abs().max() < 0.005
    assert not torch.equal(drawn, uniform(torch.arange(200), 4, 500))
    assert torch.equal(permutation(SEEDS, 0, 7).sort(1).values, torch.arange(7).expand(len(SEEDS), 7))


def test_a_video_depends_on_its_seed_alone(scenes):
    moments = times(0.0, 9.25, 31.0)
    together = render(scenes, moments)
    alone = render(sample_scenes(SEEDS[5:6]), moments[:1])
    assert torch.equal(alone.pixels[0], together.pixels[5])
    assert torch.equal(render(sample_scenes(SEEDS[5:6]), moments[:1, 1:]).pixels[0], together.pixels[5, 1:])
    assert not torch.equal(together.pixels[5], together.pixels[6])


def test_events_keep_their_distances():
    scene = sample_scenes(torch.arange(1500))
    for b in range(len(scene)):
        shown = scene.count[b].item()
        appear, change = scene.appear[b, :shown].tolist(), scene.change[b, :shown].tolist()
        changed = [t for t in change if t < FRAMES]
        events = sorted(appear + changed)
        assert all(later - earlier >= EVENT_GAP for earlier, later in pairwise(events))
        assert all(c - a >= SHORTEST for a, c in zip(appear, change, strict=True) if c < FRAMES)
        assert max(changed, default=0) <= FRAMES - SHORTEST
        starts = [*scene.digit_start[b, : scene.digit_count[b]].tolist(), FRAMES]
        assert starts[0] == 0
        assert all(later - earlier >= SHORTEST for earlier, later in pairwise(starts))
        digits = scene.digits[b, : scene.digit_count[b]].tolist()
        assert all(a != b for a, b in pairwise(digits))
    assert 0.2 < scene.changes.float().mean() < 0.5


def test_annotation_is_what_the_scene_says(scenes):
    for moment in (0.5, 11.0, 21.5, 31.0):
        frames = render(scenes, times(moment))
        for b in range(len(scenes)):
            expected = set()
            for k in range(scenes.count[b]):
                if moment >= scenes.appear[b, k]:
                    color = scenes.last_color if moment >= scenes.change[b, k] else scenes.first_color
                    expected.add((color[b, k].item() + 1, scenes.shape[b, k].item() + 1))
            labels = zip(frames.color[b].flatten().tolist(), frames.shape[b].flatten().tolist(), strict=True)
            assert set(labels) - {(0, 0)} == expected


def test_patches_show_their_annotated_color(scenes):
    frames = render(scenes, times(4.0, 20.0, 31.0), grain=False)
    patches = frames.pixels.unfold(3, 8, 8).unfold(4, 8, 8).permute(0, 1, 3, 4, 5, 6, 2)  # [B, F, 8, 8, 8, 8, 3]
    palette = torch.tensor(_RGB) / 255
    labelled = frames.color > 0
    wanted = palette[frames.color[labelled] - 1]
    off = (patches[labelled] - wanted[:, None, None]).abs().amax(-1).flatten(1).amin(1)
    assert labelled.sum() > 100
    assert off.max() < 1e-5


def test_drawn_digits_are_the_annotated_ones(scenes):
    frames = render(scenes, times(*range(FRAMES)), grain=False)
    assert frames.digit.max() < NO_DIGIT
    for b in range(len(scenes)):
        left = scenes.digit_column[b]
        cells = (
            frames.pixels[b, :, 0, 2:12:2, left : left + 6 : 2] * frames.pixels[b, :, 2, 2:12:2, left : left + 6 : 2]
        )
        read = ["".join("1" if cell > 0.99 else "0" for cell in frame.flatten()) for frame in cells]
        assert [_GLYPHS.index(glyph) for glyph in read] == frames.digit[b].tolist()


def test_objects_move_as_annotated(scenes):
    frames = render(scenes, times(*range(FRAMES)), grain=False)
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
    palette = torch.tensor(_RGB) / 255
    grid = torch.arange(64.0)
    for b in range(len(scenes)):
        for k in range(scenes.count[b]):
            color = palette[scenes.last_color[b, k]][:, None, None]
            begin = scenes.change[b, k] if scenes.changes[b, k] else scenes.appear[b, k]
            mass = ((frames.pixels[b, begin:] - color).abs().amax(1) < 1e-4).float()
            mass[:, :13] = 0  # digits are white too
            x = (mass * grid).sum((1, 2)) / mass.sum((1, 2))
            y = (mass * grid[:, None]).sum((1, 2)) / mass.sum((1, 2))
            ahead = steps[DIRECTIONS[scenes.direction[b, k]]]
            for moved, sign in ((x[-1] - x[0], ahead[0]), (y[-1] - y[0], ahead[1])):
                assert moved * sign > 1 if sign else abs(moved) < 1


def test_no_object_hides_another():
    scene = sample_scenes(torch.arange(300))
    frames = render(scene, times(31.0, rows=300), grain=False)
    for b in range(len(scene)):
        assert frames.shape[b].unique().numel() == scene.count[b] + 1
    assert OBJECTS == 3


def test_large_drawings_scale_down_to_small_ones(scenes):
    moments = times(24.0)
    small = render(scenes, moments, grain=False).pixels
    large = render(scenes, moments, 256, grain=False).pixels
    assert large.shape[-1] == 256
    scaled = torch.nn.functional.avg_pool2d(large[:, 0], 4)
    assert (scaled - small[:, 0]).abs().mean() < 0.01


@pytest.mark.parametrize("side", [32, 100])
def test_render_refuses_other_sides(scenes, side):
    with pytest.raises(ValueError, match=f"side={side}"):
        render(scenes, times(0.0), side)


def test_wrong_inputs_are_refused(scenes):
    with pytest.raises(ValueError, match="times"):
        render(scenes, torch.zeros(2, 3))
    with pytest.raises(TypeError, match="seeds"):
        sample_scenes(torch.arange(4.0))
