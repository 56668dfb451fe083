"""One thread for these tests: their tensors are small, and waiting threads cost more than they save."""

import pytest
import torch

from dycoke.nano.generator.scene import COLORS, DIRECTIONS, LETTER_NAMES, SHAPES, Scene
from dycoke.nano.generator.schedule import TICKS


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _numbers(names: str, of: tuple[str, ...] | str) -> torch.Tensor:
    return torch.tensor([[of.index(name) for name in names.split()]])


@pytest.fixture
def written():
    """A scene written by hand, of the standard level, with nothing in it that moves by itself.

    A red square appears at 12 and stays still, bottom left. A green circle appears at 2, moves up, fast, from 5 to 11,
    turns blue at 20 and is covered at 40, in the middle. A yellow cross appears at 30, moves left, slowly, from 32 to
    52 and leaves at 60, top right. Digits 7, 0, 7 and letters A, T between them; the lamp flashes twice.
    """
    return Scene(
        seed=torch.tensor([5]),
        level=torch.tensor([1]),
        count=torch.tensor([3]),
        shape=_numbers("square circle cross diamond ring", SHAPES),
        color=_numbers("red green yellow white cyan", COLORS),
        turned=_numbers("red blue yellow white cyan", COLORS),
        direction=_numbers("still up left still still", DIRECTIONS),
        column=torch.tensor([[0, 1, 2, 0, 1]]),
        appear=torch.tensor([[12, 2, 30, TICKS, TICKS]]),
        change=torch.tensor([[TICKS, 20, TICKS, TICKS, TICKS]]),
        leave=torch.tensor([[TICKS, TICKS, 60, TICKS, TICKS]]),
        cover=torch.tensor([[TICKS, 40, TICKS, TICKS, TICKS]]),
        fast=torch.tensor([[False, True, False, False, False]]),
        begin=torch.tensor([[TICKS, 5, 32, TICKS, TICKS]]),
        pace=torch.tensor([[6, 6, 20, 6, 6]]),
        x=torch.tensor([[[176, 176], [512, 512], [944, 752], [176, 176], [512, 512]]]),
        y=torch.tensor([[[640, 640], [624, 400], [400, 400], [400, 400], [400, 400]]]),
        radius=torch.tensor([[76, 76, 76, 76, 76]]),
        digit_count=torch.tensor([3]),
        digits=torch.tensor([[7, 0, 7, 1, 2, 3]]),
        digit_on=torch.tensor([[0, 10, 20, TICKS, TICKS, TICKS]]),
        digit_off=torch.tensor([[4, 15, 24, TICKS, TICKS, TICKS]]),
        letter_count=torch.tensor([2]),
        letters=_numbers("A T C E", LETTER_NAMES),
        letter_on=torch.tensor([[5, 26, TICKS, TICKS]]),
        letter_off=torch.tensor([[10, 31, TICKS, TICKS]]),
        flash_count=torch.tensor([2]),
        flash_on=torch.tensor([[3, 13, TICKS, TICKS, TICKS, TICKS]]),
        flash_off=torch.tensor([[5, 16, TICKS, TICKS, TICKS, TICKS]]),
        strips=torch.tensor([[8, 30, 50]]),
        distractor_count=torch.tensor([0]),
        distractors=torch.zeros(1, 5, 5, dtype=torch.int64),
    )
