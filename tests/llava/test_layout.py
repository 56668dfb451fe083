"""Pooling and newline layouts, with every token and with some dropped."""

import pytest
import torch

from llava.model.layout import pack_video, pool_frames

FRAMES, ROWS, COLS = 3, 2, 4
PER_FRAME = ROWS * COLS
TOTAL = FRAMES * PER_FRAME
NEWLINE = torch.full((1,), -1.0)


def pack(index: list[int], position: str):
    """Pack tokens whose value is their slot; newlines show as -1."""
    slots = torch.tensor(index, dtype=torch.long)
    newline = None if position == "no_token" else NEWLINE
    return pack_video(slots[:, None].float(), slots, FRAMES, (ROWS, COLS), position, newline)


def full_layout(position: str) -> list[int]:
    """The layout of a whole video, written out with loops."""
    tokens = []
    for frame in range(FRAMES):
        for row in range(ROWS):
            tokens += [frame * PER_FRAME + row * COLS + col for col in range(COLS)]
            if position == "grid":
                tokens.append(-1)
        if position == "frame":
            tokens.append(-1)
    return [*tokens, -1] if position == "one_token" else tokens


@pytest.mark.parametrize("position", ["one_token", "grid", "frame", "no_token"])
def test_whole_video(position):
    block = pack(list(range(TOTAL)), position)
    expected = full_layout(position)
    assert block.tokens[:, 0].tolist() == expected
    assert block.visual.tolist() == [token >= 0 for token in expected]
    assert block.slots.tolist() == list(range(len(expected)))
    assert block.full_length == len(expected)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("one_token", [7, 6, 20, -1]),
        ("no_token", [7, 6, 20]),
        ("grid", [7, 6, -1, 20, -1]),
        ("frame", [7, 6, -1, 20, -1]),
    ],
)
def test_dropped_tokens_take_their_newline_along(position, expected):
    """Slots 7 and 6 share row 1 of frame 0, slot 20 is in row 1 of frame 2; frame 1 is gone."""
    block = pack([7, 6, 20], position)
    assert block.tokens[:, 0].tolist() == expected
    whole = full_layout(position)
    at_slots = [whole[slot] for slot in block.slots.tolist()]
    assert at_slots == expected  # each token, newlines too, stands where it does in the whole video
    assert block.full_length == len(whole)


def test_tokens_of_a_row_are_brought_together_in_the_given_order():
    block = pack([20, 3, 21, 0], "grid")
    assert block.tokens[:, 0].tolist() == [3, 0, -1, 20, 21, -1]
    assert block.slots.tolist() == [3, 0, 4, 25, 26, 29]


def test_one_row_kept_of_two():
    assert pack([0, 8, 9], "grid").tokens[:, 0].tolist() == [0, -1, 8, 9, -1]
    assert pack([4, 0], "frame").tokens[:, 0].tolist() == [4, 0, -1]


@pytest.mark.parametrize(("position", "expected"), [("one_token", [-1]), ("grid", []), ("frame", [])])
def test_nothing_kept(position, expected):
    assert pack([], position).tokens[:, 0].tolist() == expected


def test_layouts_without_newline_vector():
    with pytest.raises(ValueError, match="'grid' needs a model with image_newline"):
        pack_video(torch.zeros(TOTAL, 1), torch.arange(TOTAL), FRAMES, (ROWS, COLS), "grid", None)


@pytest.mark.parametrize("position", ["rows", "", None])
def test_unknown_position(position):
    with pytest.raises(ValueError, match="expected one of one_token, grid, frame, no_token"):
        pack([0], position)


def test_slots_must_be_int64():
    with pytest.raises(TypeError, match=r"torch.int32; expected torch.int64"):
        pack_video(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int32), FRAMES, (ROWS, COLS), "no_token", None)


def test_tokens_and_slots_must_match():
    with pytest.raises(ValueError, match="2 tokens come with"):
        pack_video(torch.zeros(2, 1), torch.arange(3), FRAMES, (ROWS, COLS), "no_token", None)


@pytest.mark.parametrize("position", ["one_token", "grid", "frame", "no_token"])
def test_no_value_is_read_back_for_a_whole_video(position):
    """On the meta device any read of a value raises."""
    with torch.device("meta"):
        newline = None if position == "no_token" else torch.zeros(1)
        block = pack_video(torch.zeros(TOTAL, 1), torch.arange(TOTAL), FRAMES, (ROWS, COLS), position, newline)
    assert block.tokens.shape[0] == len(full_layout(position))


@pytest.mark.parametrize("position", ["one_token", "no_token"])
def test_no_value_is_read_back_for_dropped_tokens(position):
    with torch.device("meta"):
        newline = None if position == "no_token" else torch.zeros(1)
        pack_video(torch.zeros(5, 1), torch.arange(5), FRAMES, (ROWS, COLS), position, newline)


@pytest.mark.parametrize(("mode", "side", "pooled"), [("average", 3, 1), ("max", 3, 1), ("bilinear", 3, 2)])
def test_odd_sides(mode, side, pooled):
    frames, grid = pool_frames(torch.arange(2.0 * side * side).view(2, side * side, 1), side, mode)
    assert grid == (pooled, pooled)
    assert frames.shape == (2, pooled * pooled, 1)


def test_pooled_values():
    frames = torch.arange(16.0).view(1, 16, 1)
    assert pool_frames(frames, 4, "average")[0].flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_frames(frames, 4, "max")[0].flatten().tolist() == [5, 7, 13, 15]
    assert pool_frames(frames, 4, "bilinear")[0].flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_bad_pooling():
    with pytest.raises(ValueError, match="'median': expected one of average, max, bilinear"):
        pool_frames(torch.zeros(1, 4, 1), 2, "median")
    with pytest.raises(ValueError, match="5 tokens per frame do not make a 2 x 2 grid"):
        pool_frames(torch.zeros(1, 5, 1), 2, "max")
