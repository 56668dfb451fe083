"""Whatever a question's spacing promises: frames that far apart, wherever they begin, show what the answer needs."""

from itertools import pairwise

import pytest
import torch

from dycoke.nano.generator import LEVELS, TICKS, clip_questions, sample_scenes, stories
from dycoke.nano.generator.scene import COLORS, SHAPES
from dycoke.nano.generator.story import Actor

_TRAVEL = 0.3  # share of a motion that tells its direction
_FAST = 1 / 14  # share of a motion a tick; a slow one takes 20 ticks or more


class Frames:
    """What frames at some ticks show of a story."""

    def __init__(self, story, ticks):
        self.story, self.ticks = story, ticks

    def any(self, begin: int, end: int) -> bool:
        return any(begin <= tick < end for tick in self.ticks)

    def seen(self, actor: Actor) -> list[int]:
        return [tick for tick in self.ticks if actor.appear <= tick < min(actor.leave, actor.cover)]

    def travelled(self, actor: Actor) -> list[float]:
        return [min(1.0, max(0.0, (tick - actor.begin) / actor.pace)) for tick in self.seen(actor)]

    def motion(self, actor: Actor) -> bool:
        way = self.travelled(actor)
        return bool(way) and (not actor.moves or way[-1] - way[0] >= _TRAVEL)

    def speed(self, actor: Actor) -> bool:
        seen, way = self.seen(actor), self.travelled(actor)
        rates = [(b - a) / (v - u) for (u, v), (a, b) in zip(pairwise(seen), pairwise(way), strict=True)]
        return self.motion(actor) and (max(rates) > _FAST) == actor.fast

    def start(self, actor: Actor) -> bool:
        return bool(self.seen(actor)) and self.travelled(actor)[0] < 0.5

    def end(self, actor: Actor) -> bool:
        return bool(self.seen(actor)) and (not actor.moves or self.travelled(actor)[-1] > 0.5)

    def look(self, actor: Actor, color: str) -> bool:
        begin = actor.change if color != actor.color else actor.appear
        end = min(actor.leave, actor.cover, TICKS if color == actor.turned else actor.change)
        return self.any(begin, end)

    def looks(self, actor: Actor) -> bool:
        return self.look(actor, actor.color) and self.look(actor, actor.turned)

    def signs(self, shown) -> bool:
        """Each is seen, and equal neighbours are seen apart."""
        apart = all(a.sign != b.sign or self.any(a.end, b.begin) for a, b in pairwise(shown))
        return apart and all(self.any(each.begin, each.end) for each in shown)

    def onsets(self, ticks: list[int]) -> bool:
        """No two things begin between the same two frames."""
        return all(self.any(first, second) for first, second in pairwise([*sorted(ticks), TICKS]))

    def covered(self) -> bool:
        actor = self.story.covered
        if actor is None:
            return bool(self.ticks)
        return bool(self.seen(actor)) and self.any(actor.cover, TICKS)

    def covered_color(self) -> bool:
        actor = self.story.covered
        return self.covered() and (actor is None or self.look(actor, actor.turned))


def shown(question, frames: Frames) -> bool:
    """Whether the frames show what the question's answer needs."""
    story = frames.story
    words = question.text.rstrip("?.").replace(",", "").split()
    actor = next((actor for actor in story.actors if actor.shape in words), None)
    events = [t for each in story.actors for t in (each.appear, each.change, each.leave, each.cover) if t < TICKS]
    every = {
        "color_start": lambda: frames.look(actor, actor.color),
        "color_end": lambda: frames.look(actor, actor.turned),
        "turns": lambda: frames.looks(actor),
        "direction": lambda: frames.motion(actor),
        "speed": lambda: frames.speed(actor),
        "position_start": lambda: frames.start(actor),
        "position_end": lambda: frames.end(actor),
        "existence": lambda: actor is None or frames.look(actor, actor.color),
        "order": lambda: frames.onsets([each.appear for each in story.actors]) and all(map(frames.seen, story.actors)),
        "count": lambda: all(map(frames.seen, story.actors)),
        "moving_count": lambda: all(map(frames.motion, story.actors)),
        "covered": frames.covered,
        "covered_color": frames.covered_color,
        "digits": lambda: frames.signs(story.digits),
        "digit_count": lambda: frames.signs(story.digits),
        "first_digit": lambda: frames.signs(story.digits[:1]),
        "last_digit": lambda: frames.signs(story.digits[-1:]),
        "flash_count": lambda: frames.signs(story.flashes),
        "transcript": lambda: frames.signs(story.signs) and frames.onsets([each.begin for each in story.signs]),
        "events": lambda: frames.onsets(events) and all(frames.motion(a) and frames.looks(a) for a in story.actors),
    }
    return every[question.task]()


@pytest.mark.parametrize("level", LEVELS)
def test_frames_as_far_apart_as_a_question_allows_show_its_answer(level):
    tasks = set()
    for story in stories(sample_scenes(torch.arange(120), level)):
        for question in clip_questions(story):
            assert 1 <= question.spacing <= TICKS
            tasks.add(question.task)
            for first in range(question.spacing):
                ticks = list(range(first, TICKS, question.spacing))
                assert shown(question, Frames(story, ticks)), (question, story, ticks)
    assert len(tasks) == 20


def test_wider_frames_would_not_do():
    """So that the test above can fail: twice as wide, many answers are no longer shown."""
    missed = dict.fromkeys(("digits", "flash_count", "transcript", "events", "order", "direction"), 0)
    for story in stories(sample_scenes(torch.arange(40))):
        for question in clip_questions(story):
            if question.task in missed and 2 * question.spacing < TICKS:
                frames = (list(range(first, TICKS, 2 * question.spacing)) for first in range(2 * question.spacing))
                missed[question.task] += not all(shown(question, Frames(story, ticks)) for ticks in frames)
    assert min(missed.values()) > 5


def test_words_of_shapes_and_colors_tell_things_apart():
    assert not set(COLORS) & set(SHAPES)
