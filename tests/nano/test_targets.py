"""What auxiliary heads are to read, on a scene written by hand, and that they read it."""

import pytest
import torch
import torch.nn.functional as F

from dycoke.nano.generator import TICKS, render, sample_scenes
from dycoke.nano.generator.render import BOX, NONE
from dycoke.nano.generator.scene import COLORS, DIRECTIONS, OBJECTS, SHAPES
from dycoke.nano.heads import DenseHeads
from dycoke.nano.targets import IGNORE, MEMORY, PATCH, SIGN, TALLY, targets

TIMES = [0, 2, 7, 11, 13, 21, 33, 41, 52, 61]
SQUARE, CIRCLE, CROSS = range(3)  # objects of the written scene


@pytest.fixture
def ticks():
    return torch.tensor([TIMES])


@pytest.fixture
def wanted(written, ticks):
    return targets(written, ticks, render(written, ticks))


def drawn(rows: int = 4):
    scene = sample_scenes(torch.arange(rows))
    ticks = torch.tensor([5, 20, 40, 60]).expand(rows, 4).contiguous()
    return targets(scene, ticks, render(scene, ticks))


def test_tallies_count_what_has_been_seen_so_far(wanted):
    assert wanted.tally["flashes"][0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert wanted.tally["objects"][0].tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    # while one is in motion, whether it counts is not asked
    assert wanted.tally["movers"][0].tolist() == [0, 0, IGNORE, 1, 1, 1, IGNORE, IGNORE, 2, 2]


def test_memory_knows_what_each_object_did(wanted):
    fast_up = 1 + len(DIRECTIONS) - 1 + DIRECTIONS.index("up")
    slow_left = 1 + DIRECTIONS.index("left")
    motion = wanted.memory["motion"][0]
    assert motion[:, SQUARE].tolist() == [0] * 10
    assert motion[:, CIRCLE].tolist() == [0, 0, IGNORE, *[fast_up] * 7]
    assert motion[:, CROSS].tolist() == [*[0] * 6, IGNORE, IGNORE, slow_left, slow_left]
    whole = {name: value[0, :, :3].unique(dim=0).tolist() for name, value in wanted.memory.items() if name != "motion"}
    assert whole == {
        "first_color": [[COLORS.index(name) for name in ("red", "green", "yellow")]],
        "hidden": [[SHAPES.index(name) for name in ("square", "circle", "cross")]],
        "start": [[1, 3, 4]],  # two to a column: top, bottom
        "ordinal": [[1, 0, 2]],
    }


def test_patches_know_color_shape_and_place_of_what_they_show(wanted):
    def at(frame: int, owner: int) -> dict[str, list[int]]:
        mine = wanted.owner[0, frame] == owner + 1
        return {name: value[0, frame][mine].unique().tolist() for name, value in wanted.patch.items()}

    circle, cross = SHAPES.index("circle") + 1, SHAPES.index("cross") + 1
    # bins of 4 px: the circle is at (32, 39), then at (32, 25)
    assert at(1, CIRCLE) == {"color": [COLORS.index("green") + 1], "shape": [circle], "x": [8], "y": [9]}
    assert at(5, CIRCLE) == {"color": [COLORS.index("blue") + 1], "shape": [circle], "x": [8], "y": [6]}
    assert at(7, CIRCLE) == {"color": [0], "shape": [BOX], "x": [8], "y": [6]}
    assert at(8, CROSS) == {"color": [COLORS.index("yellow") + 1], "shape": [cross], "x": [11], "y": [6]}
    nothing = wanted.owner == 0
    for name, value in wanted.patch.items():
        assert (value[nothing] == (0 if name in ("color", "shape") else IGNORE)).all()
    assert not (wanted.owner[0, 9] == CROSS + 1).any()  # it has left


def test_signs_are_those_of_the_frame(wanted):
    assert wanted.sign["digit"][0].tolist() == [7, 7, NONE, 0, 0, 7, NONE, NONE, NONE, NONE]
    assert wanted.sign["letter"][0].tolist() == [NONE, NONE, 0, *[NONE] * 7]
    assert wanted.sign["lamp"][0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_classes_are_as_many_as_the_heads_have():
    scene = sample_scenes(torch.arange(60))
    ticks = torch.arange(0, TICKS, 9).expand(60, -1).contiguous()
    wanted = targets(scene, ticks, render(scene, ticks, 64))
    for classes, values in ((PATCH, wanted.patch), (MEMORY, wanted.memory), (SIGN, wanted.sign), (TALLY, wanted.tally)):
        assert set(classes) == set(values)
        for name, count in classes.items():
            told = values[name][values[name] != IGNORE]
            assert told.min() >= 0 and told.max() < count
            if name not in ("x", "y"):  # nothing is at the lowest places, where the letters are
                assert told.max() >= count - 2, name
    assert wanted.owner.max() <= OBJECTS


@pytest.mark.parametrize("grid", [3, 4, 8])
def test_memory_is_read_off_tokens_that_show_an_object(grid):
    wanted = drawn()
    torch.manual_seed(0)
    heads = DenseHeads(12, 10)
    features, tokens = torch.randn(16, 64, 12), torch.randn(4, 4, grid**2, 10, requires_grad=True)
    heads(features, tokens, grid, wanted).backward()
    read = tokens.grad.abs().sum(-1) > 0
    shows = F.adaptive_max_pool2d((wanted.owner > 0).float(), grid).flatten(2) > 0
    shows[:, :, -1] |= wanted.tally["objects"] != IGNORE  # the last of a frame counts
    assert torch.equal(read, shows)


def test_heads_learn_what_features_tell():
    wanted = drawn()
    torch.manual_seed(0)
    heads = DenseHeads(200, 64)
    features, tokens = torch.randn(16, 64, 200), torch.randn(4, 4, 16, 64)
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.05)
    seen = []
    for _ in range(40):
        loss = heads(features, tokens, 4, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert seen[-1] < 0.25 * seen[0]


def test_nothing_is_lost_where_nothing_is_to_say():
    wanted = drawn()
    for values in (wanted.patch, wanted.sign, wanted.memory, wanted.tally):
        for value in values.values():
            value.fill_(IGNORE)
    loss = DenseHeads(12, 10)(torch.randn(16, 64, 12), torch.randn(4, 4, 16, 10), 4, wanted)
    assert loss.item() == 0
