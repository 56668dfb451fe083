"""Drawn frames: repeatable on every device, and showing what the scene and the dense annotation say."""

from dataclasses import fields, replace

import pytest
import torch

from dycoke.nano.generator import FRAME, LEVELS, TICKS, Scene, render, sample_scenes
from dycoke.nano.generator.raster import DIGIT_FONT, LETTER_FONT, SIDE
from dycoke.nano.generator.render import NONE, PATCHES, centres
from dycoke.nano.generator.scene import COLORS, OBJECTS
from dycoke.nano.generator.splits import split_seeds
from dycoke.nano.targets import Targets, targets
from tests.nano.watching import COLORS as RGB
from tests.nano.watching import sign_in

SEEDS = split_seeds("train", 0, 10)
CLEAR = {"noise": False}


@pytest.fixture(scope="module")
def scene():
    return sample_scenes(SEEDS)


def at(*ticks: int, rows: int = len(SEEDS)) -> torch.Tensor:
    return torch.tensor(ticks).expand(rows, len(ticks)).contiguous()


def colored(pixels: torch.Tensor, rgb: tuple[int, int, int]) -> torch.Tensor:
    """Where pixels [..., 3, S, S] are exactly of a colour."""
    return (pixels == torch.tensor(rgb, dtype=torch.uint8)[:, None, None]).all(-3)


def test_a_frame_depends_on_its_scene_and_tick_alone(scene):
    together = render(scene, at(0, 19, 63))
    alone = render(sample_scenes(SEEDS[5:6]), at(19, rows=1))
    for name in ("pixels", "owner", "digit", "letter", "lamp"):
        assert torch.equal(getattr(alone, name)[0, 0], getattr(together, name)[5, 1])
    assert not torch.equal(together.pixels[5], together.pixels[6])
    assert not torch.equal(together.pixels[5, 1], together.pixels[5, 2])


def test_patches_belong_to_the_object_whose_color_they_show(scene):
    ticks = at(*range(2, TICKS, 10))
    frames = render(scene, ticks, **CLEAR)
    size = SIDE // PATCHES
    shown = 0
    for k in range(OBJECTS):
        color = torch.where(ticks >= scene.change[:, k, None], scene.turned[:, k, None], scene.color[:, k, None])
        share = torch.stack([colored(frames.pixels, rgb) for rgb in RGB.values()], -1).float()
        share = share.unflatten(-2, (PATCHES, size)).unflatten(-4, (PATCHES, size)).mean((-2, -4))
        mine = share.gather(-1, color[..., None, None, None].expand(*share.shape[:-1], 1))[..., 0]
        there = (ticks >= scene.appear[:, k, None]) & (ticks < scene.leave[:, k, None].minimum(scene.cover[:, k, None]))
        mine = mine * there[..., None, None]
        owned = frames.owner == k + 1
        assert (mine[owned] > 0.05).all() and (owned | (mine < 0.3) | (frames.owner > OBJECTS)).all()
        shown += owned.sum().item()
    assert shown > 200
    assert tuple(RGB) == COLORS


def test_an_object_is_where_the_scene_says_in_its_color(written):
    frames = render(written, at(1, 2, 19, 20, 39, 40, 59, 60, rows=1), **CLEAR)
    circle = [tuple(frames.pixels[0, f, :, 2 * y, 2 * 32].tolist()) for f, y in ((1, 39), (2, 25), (3, 25), (4, 25))]
    assert circle == [RGB["green"], RGB["green"], RGB["blue"], RGB["blue"]]
    assert colored(frames.pixels, RGB["green"]).flatten(2).any(-1)[0].tolist() == [False, True, True, *[False] * 5]
    assert colored(frames.pixels, RGB["blue"]).flatten(2).any(-1)[0].tolist() == [
        *[False] * 3,
        True,
        True,
        *[False] * 3,
    ]
    assert colored(frames.pixels, RGB["yellow"]).flatten(2).any(-1)[0].tolist() == [
        *[False] * 4,
        True,
        True,
        True,
        False,
    ]


def test_a_box_hides_what_it_covers(written):
    before, after = render(written, at(39, 40, rows=1), **CLEAR).owner[0]
    assert (before == 2).any() and not (before > OBJECTS).any()
    assert not (after == 2).any() and (after == OBJECTS + 2).any()
    assert ((before == 2) <= (after == OBJECTS + 2)).all()


def test_motions_go_from_place_to_place_at_their_pace(written):
    x, y = centres(written, torch.arange(TICKS)[None])
    assert x.shape == y.shape == (1, TICKS, OBJECTS)
    assert (x[0, :, 1] == 512).all()
    assert y[0, :6, 1].tolist() == [624] * 6 and y[0, 11:, 1].tolist() == [400] * 53
    assert y[0, 5:12, 1].diff().tolist() == pytest.approx([-224 / 6] * 6, abs=1)
    assert x[0, [0, 32, 42, 52, 63], 2].tolist() == [944, 944, 848, 752, 752] and (y[0, :, 2] == 400).all()
    assert (x[0, :, 0] == 176).all() and (y[0, :, 0] == 640).all()


def test_signs_and_lamp_are_the_annotated_ones(scene):
    frames = render(scene, at(*range(TICKS)), **CLEAR)
    lit = colored(frames.pixels, (255, 255, 190)).flatten(2).any(-1)
    assert torch.equal(lit, frames.lamp.bool())
    for font, strip, kind in ((DIGIT_FONT, slice(26), "digit"), (LETTER_FONT, slice(102, None), "letter")):
        known = dict(zip(font, "0123456789", strict=True))
        for b in range(0, len(scene), 3):
            said = [sign_in(picture[:, strip], known) for picture in frames.pixels[b]]
            assert [int(sign or NONE) for sign in said] == getattr(frames, kind)[b].tolist()
            signs, on, off = (getattr(scene, name)[b] for name in (f"{kind}s", f"{kind}_on", f"{kind}_off"))
            for tick, sign in enumerate(said):
                shown = signs[(on <= tick) & (tick < off)].tolist()
                assert shown == ([int(sign)] if sign else [])


def test_glyphs_cannot_be_mistaken_for_each_other():
    for font in (DIGIT_FONT, LETTER_FONT):
        assert len(set(font)) == 10 and {len(glyph) for glyph in font} == {15}


def test_noise_is_mild_and_belongs_to_the_seed():
    for level, setting in LEVELS.items():
        scene = sample_scenes(SEEDS[:2], level)
        clear = render(scene, at(7, 8, rows=2), **CLEAR).pixels.int()
        noisy = render(scene, at(7, 8, rows=2)).pixels.int()
        off = (noisy - clear).abs()
        assert 0 < off.max() <= setting.grain + 1
        assert not torch.equal((noisy - clear)[:, 0], (noisy - clear)[:, 1])


def test_backgrounds_drift_where_the_level_lets_them():
    empty = {"count": torch.zeros(2, dtype=torch.int64), "distractor_count": torch.zeros(2, dtype=torch.int64)}
    still, drifting = (
        render(replace(sample_scenes(SEEDS[:2], level), **empty), at(0, 60, rows=2), **CLEAR).pixels[..., 30:100, :]
        for level in ("easy", "hard")
    )
    assert torch.equal(still[:, 0], still[:, 1])
    assert not torch.equal(drifting[:, 0], drifting[:, 1])


def test_distractors_cross_the_picture_behind_objects(written):
    gray = torch.tensor([[[0, 640, 48, 12, 2]]]).expand(1, 5, 5)
    alone = replace(written, distractors=gray, distractor_count=torch.tensor([1]))
    ticks = at(0, 10, 30, rows=1)
    seen = colored(render(alone, ticks, **CLEAR).pixels, (135, 135, 135))[0]
    middles = [seen[f].nonzero()[:, 1].float().mean().item() for f in range(3)]
    assert middles[1] == pytest.approx(15, abs=1) and middles[2] == pytest.approx(45, abs=1)  # 12 / 16 px a tick, twice
    # at tick 15 it is where the square is, which hides it
    owner, without = (render(each, at(15, rows=1), **CLEAR).owner for each in (alone, written))
    assert torch.equal(owner, without)


def test_what_is_drawn_is_almost_all_in_the_picture_and_seen():
    """Objects at a border may lose a tip, never more."""
    for level in LEVELS:
        scene = sample_scenes(split_seeds("test", 0, 20), level)
        still = replace(scene, shape=torch.ones_like(scene.shape))  # squares, whose area is known
        frames = render(still, at(*range(0, TICKS, 9), rows=20), **CLEAR)
        ticks = at(*range(0, TICKS, 9), rows=20)
        for k in range(OBJECTS):
            there = (ticks >= scene.appear[:, k, None]) & (
                ticks < scene.leave[:, k, None].minimum(scene.cover[:, k, None])
            )
            color = torch.where(ticks >= scene.change[:, k, None], scene.turned[:, k, None], scene.color[:, k, None])
            palette = torch.tensor(list(RGB.values()), dtype=torch.uint8)[color][..., None, None]
            area = (frames.pixels == palette).all(2).sum((-1, -2))[there]
            side = (scene.radius[:, k] * 14 // 16 * 2 / 8)[:, None].expand_as(there)[there]
            assert (area > 0.8 * side.square()).all() and (area < 1.25 * side.square()).all()


def test_small_frames_are_large_ones_halved(scene):
    ticks = at(24, 60)
    large, small = render(scene, ticks), render(scene, ticks, FRAME)
    assert large.pixels.shape[-1] == SIDE and small.pixels.shape[-1] == FRAME
    mean = torch.nn.functional.avg_pool2d(large.pixels.float().flatten(0, 1), 2).view(small.pixels.shape)
    assert (small.pixels - mean).abs().max() <= 0.5
    assert torch.equal(large.owner, small.owner)


def test_wrong_inputs_are_refused(scene):
    with pytest.raises(ValueError, match=r"ticks: expected int64 \[10, frames\], got torch.float32 \(2, 3\)"):
        render(scene, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="ticks: 0 to 64: expected 0 to 63"):
        render(scene, at(0, TICKS))
    with pytest.raises(ValueError, match="side=100: expected 128 or 64"):
        render(scene, at(0), 100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("level", LEVELS)
def test_a_gpu_draws_the_same_scenes_pixels_and_targets(level):
    seeds = torch.cat([split_seeds(split, 0, 40) for split in ("train", "validation", "test")])
    here, there = sample_scenes(seeds, level), sample_scenes(seeds.cuda(), level)
    for f in fields(Scene):
        assert getattr(there, f.name).is_cuda
        assert torch.equal(getattr(here, f.name), getattr(there, f.name).cpu()), f.name
    ticks = torch.arange(len(seeds) * 3).view(-1, 3) * 11 % TICKS
    for side in (SIDE, FRAME):
        for noise in (True, False):
            drawn, there_drawn = (render(s, t, side, noise=noise) for s, t in ((here, ticks), (there, ticks.cuda())))
            for f in fields(type(drawn)):
                assert torch.equal(getattr(drawn, f.name), getattr(there_drawn, f.name).cpu()), f.name
    wanted, there_wanted = targets(here, ticks, drawn), targets(there, ticks.cuda(), there_drawn)
    for f in fields(Targets):
        mine, theirs = getattr(wanted, f.name), getattr(there_wanted, f.name)
        if isinstance(mine, dict):
            assert all(torch.equal(mine[name], theirs[name].cpu()) for name in mine), f.name
        else:
            assert torch.equal(mine, theirs.cpu()), f.name
