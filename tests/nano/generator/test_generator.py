"""Scenes: functions of their seeds, with all that happens in them far enough apart to be seen."""

import hashlib
from dataclasses import fields
from itertools import pairwise

import pytest
import torch

from dycoke.nano.generator import LEVELS, STANDARD, TICKS, Scene, render, sample_scenes, stories
from dycoke.nano.generator.scene import COLORS, ONSET_GAP
from dycoke.nano.generator.schedule import EVENT_GAP
from dycoke.nano.generator.splits import split_seeds

SEEDS = torch.cat([split_seeds(split, 100, 40) for split in ("train", "validation", "test")])
MANY = 1200
FOLLOWERS = {3: 0, 4: 1}

# sha256 of scenes, stories and pixels, by level: on every machine and every device the same
GOLDEN = {
    "easy": ("155e51a2cefedc391f3cda8d", "fc14c34b8c79da1992651490", "201503a77771e22673f05f2f"),
    "standard": ("d6cf53f4f9dfad60a423b382", "3656765f73aaa3334e6507d9", "51f335ab920607e08ed7365b"),
    "hard": ("e153ee128ed521695cce8f40", "c64c285d7a8e1825ebbe2281", "51f906a0f5b3124f6b08f09e"),
}


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(scope="module")
def scene(level):
    return sample_scenes(split_seeds("train", 0, MANY), level)


@pytest.fixture(scope="module")
def rows(scene):
    """Each scene as a dictionary of lists."""
    columns = {f.name: getattr(scene, f.name).tolist() for f in fields(Scene)}
    return [{name: column[b] for name, column in columns.items()} for b in range(len(scene))]


def same(a: Scene, b: Scene) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scene))


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:24]


def digests(level: str) -> tuple[str, str, str]:
    seeds = torch.cat([split_seeds(split, 3, 2) for split in ("train", "validation", "test")])
    scene = sample_scenes(seeds, level)
    tensors = digest(*(getattr(scene, f.name).to(torch.int64).numpy().tobytes() for f in fields(Scene)))
    pixels = render(scene, torch.tensor([3, 29, 63]).expand(len(seeds), 3)).pixels
    return tensors, digest(repr(stories(scene)).encode()), digest(pixels.numpy().tobytes())


def test_seeds_give_what_they_always_gave(level):
    """Weights were trained, and results reported, on these very videos."""
    assert digests(level) == GOLDEN[level]


def test_a_scene_depends_on_its_seed_and_level_alone(level):
    together = sample_scenes(SEEDS, level)
    for b in (0, 57, 119):
        alone = sample_scenes(SEEDS[b : b + 1], level)
        assert all(torch.equal(getattr(alone, f.name)[0], getattr(together, f.name)[b]) for f in fields(Scene))
    assert not torch.equal(together.x[0], together.x[1])


def test_scenes_of_many_levels_can_be_drawn_together():
    numbers = torch.arange(len(SEEDS)) % len(LEVELS)
    mixed = sample_scenes(SEEDS, numbers)
    for number, level in enumerate(LEVELS):
        alone = sample_scenes(SEEDS, level)
        for f in fields(Scene):
            assert torch.equal(getattr(mixed, f.name)[numbers == number], getattr(alone, f.name)[numbers == number])
    assert same(sample_scenes(SEEDS), sample_scenes(SEEDS, STANDARD))


def test_there_are_as_many_objects_as_the_level_says(scene, level):
    setting = LEVELS[level]
    shares = scene.count.bincount(minlength=6) / MANY
    allowed = range(setting.fewest, setting.most + 1)
    assert all(abs(shares[count] - 1 / len(allowed)) < 0.05 for count in allowed)
    assert shares[: setting.fewest].sum() == shares[setting.most + 1 :].sum() == 0


def test_events_of_objects_keep_their_distances(rows):
    for row in rows:
        ticks = sorted(t for name in ("appear", "change", "leave", "cover") for t in row[name] if t < TICKS)
        assert all(later - earlier >= EVENT_GAP for earlier, later in pairwise([*ticks, TICKS]))
        for k in range(5):
            appear, change = row["appear"][k], row["change"][k]
            end = min(row["leave"][k], row["cover"][k])
            assert (appear < TICKS) == (k < row["count"])
            if k < row["count"]:
                assert appear < end and (change == TICKS or appear < change < end)
                assert row["leave"][k] == TICKS or row["cover"][k] == TICKS
        assert sum(cover < TICKS for cover in row["cover"]) <= 1


def test_a_follower_comes_after_the_one_whose_column_it_takes(rows):
    followed = 0
    for row in rows:
        assert sorted(row["column"][:3]) == [0, 1, 2]
        for later, earlier in FOLLOWERS.items():
            assert row["column"][later] == row["column"][earlier]
            if later < row["count"]:
                assert row["leave"][earlier] + EVENT_GAP <= row["appear"][later]
                followed += 1
    assert followed > 0 or max(row["count"] for row in rows) <= 3


def test_objects_differ_in_shape_and_color(rows):
    for row in rows:
        assert len(set(row["shape"])) == 5
        changed = [t for k, t in enumerate(row["turned"]) if row["change"][k] < TICKS]
        assert len(set(row["color"] + changed)) == 5 + len(changed) <= len(COLORS)
        kept = [k for k in range(5) if row["change"][k] == TICKS]
        assert [row["turned"][k] for k in kept] == [row["color"][k] for k in kept]


def test_motions_are_over_before_a_stay_is(rows):
    for row in rows:
        for k in range(5):
            begin, pace, still = row["begin"][k], row["pace"][k], row["direction"][k] == 4
            assert (begin == TICKS) == still
            dx, dy = (row[axis][k][1] - row[axis][k][0] for axis in "xy")
            # 12 px across, 14 px up and down
            assert (dx, dy) == [(-192, 0), (192, 0), (0, -224), (0, 224), (0, 0)][row["direction"][k]]
            if not still:
                assert row["appear"][k] < begin and begin + pace <= min(row["leave"][k], row["cover"][k], TICKS) - 2
                assert 6 <= pace <= 8 if row["fast"][k] else 20 <= pace <= 28
            else:
                assert not row["fast"][k]


def test_places_are_in_the_picture_and_their_column(rows):
    for row in rows:
        for k in range(5):
            for x, y in zip(row["x"][k], row["y"][k], strict=True):
                column = x * 3 // 1024
                assert column == row["column"][k] and 5 * 16 <= x <= 59 * 16 and 20 * 16 <= y <= 44 * 16
            sides = [y > 512 for y in row["y"][k]]
            assert (sides[0] != sides[1]) == (row["direction"][k] in (2, 3))  # up and down cross the middle


@pytest.mark.parametrize(
    ("kind", "least", "longest", "gap", "counts"),
    [
        ("digit", lambda level: LEVELS[level].brief, 7, 1, range(3, 7)),
        ("letter", lambda level: LEVELS[level].brief + 1, 8, 1, range(1, 5)),
        ("flash", lambda level: LEVELS[level].flash, 4, 3, range(6)),
    ],
)
def test_signs_keep_their_lengths_and_gaps(rows, level, kind, least, longest, gap, counts):
    found = set()
    for row in rows:
        count = row[f"{kind}_count"]
        times = list(zip(row[f"{kind}_on"], row[f"{kind}_off"], strict=True))
        assert all(time == (TICKS, TICKS) for time in times[count:])
        assert all(on >= 0 and least(level) <= off - on <= longest and off <= TICKS for on, off in times[:count])
        assert all(later[0] - earlier[1] >= gap for earlier, later in pairwise(times[:count]))
        found.add(count)
    assert found == set(counts)


def test_neighbouring_signs_differ_and_begin_apart(rows):
    for row in rows:
        for kind in ("digit", "letter"):
            signs = row[f"{kind}s"][: row[f"{kind}_count"]]
            assert all(a != b for a, b in pairwise(signs)) and set(signs) <= set(range(10))
        onsets = [t for kind in ("digit", "letter") for t in row[f"{kind}_on"] if t < TICKS]
        assert all(later - earlier >= ONSET_GAP for earlier, later in pairwise(sorted(onsets)))


def test_strips_hold_their_signs_and_the_lamp(rows):
    for row in rows:
        digit, letter, lamp = row["strips"]
        assert 0 <= digit <= 58 and 0 <= letter <= 58 and 2 <= lamp <= 61
        assert lamp + 2 < digit or digit + 6 < lamp - 2


def test_shares_are_near_what_is_meant(scene, level):
    there = torch.arange(5) < scene.count[:, None]
    moves = (scene.begin < TICKS) & there
    directions = scene.direction[moves].bincount(minlength=4) / moves.sum()
    assert directions.sub(0.25).abs().max() < 0.04
    assert 0.6 < (moves.sum() / there.sum()).item() < 0.78
    assert 0.45 < (~scene.fast & moves).sum() / moves.sum() < 0.68  # few objects stay for long, and so may be slow
    assert 0.4 < (scene.change < TICKS).sum() / there.sum() <= 0.52
    assert 0.68 < (scene.cover < TICKS).any(1).float().mean() < 0.82  # 80 %, less those where none stays
    assert scene.shape[there].bincount().div(there.sum()).sub(1 / 6).abs().max() < 0.03
    assert scene.color[there].bincount().div(there.sum()).sub(1 / 8).abs().max() < 0.03
    assert scene.digits.flatten().bincount().div(scene.digits.numel()).sub(0.1).abs().max() < 0.02
    grey = scene.distractor_count.bincount()
    assert len(grey) == LEVELS[level].distractors + 1 and grey.min() > 0.8 * MANY / len(grey)


def test_wrong_inputs_are_refused():
    with pytest.raises(TypeError, match="seeds: expected int64"):
        sample_scenes(torch.arange(4.0))
    with pytest.raises(TypeError, match=r"\(2, 2\)"):
        sample_scenes(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="level='brutal': expected one of easy, standard, hard"):
        sample_scenes(SEEDS, "brutal")
    with pytest.raises(ValueError, match=r"level: expected int64 \[4\]"):
        sample_scenes(torch.arange(4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="level: expected int64"):
        sample_scenes(torch.arange(4), torch.zeros(4))
    with pytest.raises(ValueError, match="level: 0 to 3: expected 0 to 2"):
        sample_scenes(torch.arange(4), torch.arange(4))
