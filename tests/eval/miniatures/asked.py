"""Questions about synthetic scenes, with options: what every miniature data set asks, whatever its schema."""

from __future__ import annotations

from dataclasses import dataclass

from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import clip_questions, stories
from dycoke.nano.generator.questions import NOTHING, STILL
from dycoke.nano.generator.scene import COLORS, DIRECTIONS, SHAPES

LETTERS = "ABCDE"
_NUMBERS = tuple(map(str, range(10)))
_POOLS = {
    "color_end": COLORS,
    "order": (*SHAPES, NOTHING),
    "last_digit": _NUMBERS,
    "direction": (*(direction for direction in DIRECTIONS if direction != "still"), STILL),
    "count": _NUMBERS[1:],
    "color_start": COLORS,
}


@dataclass(frozen=True)
class Asked:
    """A question about scene `number`; `place` is the place of the right option."""

    number: int
    question: str
    options: tuple[str, ...]
    place: int

    @property
    def answer(self) -> str:
        return self.options[self.place]

    @property
    def letter(self) -> str:
        return LETTERS[self.place]


def ask(number: int, count: int, turn: int = 0) -> Asked:
    """A question with `count` options about a scene; turns 0 to 4 ask different things."""
    questions = {question.task: question for question in clip_questions(_story(number))}
    kinds = [kind for kind in _POOLS if kind in questions]  # a scene whose objects all leave has no color_end
    question = questions[kinds[(number + turn) % len(kinds)]]
    options = [option for option in _POOLS[question.task] if option != question.answer][: count - 1]
    place = (number + turn) % count
    return Asked(number, question.text, (*options[:place], question.answer, *options[place:]), place)


def describe(number: int) -> str:
    """A sentence that says all that happens in a scene."""
    return next(question.answer for question in clip_questions(_story(number)) if question.task == "events")


def _story(number: int):
    return stories(evaluation_scenes(1, number))[0]
