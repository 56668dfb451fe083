"""What can be asked about a scene, and the right answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dycoke.nano.generator.phrasing import put
from dycoke.nano.generator.scene import COLORS, DIRECTIONS, EVENT_GAP, FRAMES, SHAPES, SHORTEST, Scene

ORDINALS = ("first", "second", "third")
ANY = FRAMES
STILL = "It stays still"
NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its right answer, and the widest spacing of frames (time units) that still shows the answer."""

    task: str
    text: str
    answer: str
    spacing: int


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a scene: its words and the times of its events."""

    shape: str
    first: str
    last: str
    direction: str
    changes: bool
    appear: int
    change: int


@dataclass(frozen=True, slots=True)
class Story:
    """One scene in words: its objects in order of appearance, and its digits with the time each begins."""

    items: tuple[Item, ...]
    digits: tuple[int, ...]
    starts: tuple[int, ...]


def stories(scene: Scene) -> list[Story]:
    """Each scene in words. Reads the tensors once, so hand it a scene on the CPU."""
    columns = [
        getattr(scene, name).tolist()
        for name in ("shape", "first_color", "last_color", "direction", "changes", "appear", "change")
    ]
    counts, digit_counts = scene.count.tolist(), scene.digit_count.tolist()
    digits, starts = scene.digits.tolist(), scene.digit_start.tolist()
    told = []
    for b, count in enumerate(counts):
        items = []
        for k in range(count):
            shape, first, last, direction, changes, appear, change = (column[b][k] for column in columns)
            items.append(
                Item(SHAPES[shape], COLORS[first], COLORS[last], DIRECTIONS[direction], changes, appear, change)
            )
        items.sort(key=lambda item: item.appear)
        shown = digit_counts[b]
        told.append(Story(tuple(items), tuple(digits[b][:shown]), tuple(starts[b][:shown])))
    return told


def _join(parts: list[str]) -> str:
    return ", ".join(parts)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def describe_events(story: Story) -> str:
    """All appearances and colour changes as one sentence, in order of time."""
    events = []
    for item in story.items:
        motion = "stays still" if item.direction == "still" else f"moves {item.direction}"
        events.append((item.appear, f"a {_noun(item.first, item.shape)} appears and {motion}"))
        if item.changes:
            events.append((item.change, f"the {item.shape} turns {item.last}"))
    return _sentence(", then ".join(text for _, text in sorted(events)))


def _noun(color: str, shape: str) -> str:
    return f"{color} {shape}"


def _item_questions(item: Item, rng: random.Random | None) -> list[Question]:
    names = {"shape": item.shape}
    story = f"{item.first}, then {item.last}" if item.changes else item.first
    motion = STILL if item.direction == "still" else item.direction
    return [
        Question("color_end", put("color_end", rng, **names), item.last, ANY),
        Question("color_start", put("color_start", rng, **names), item.first, SHORTEST),
        Question("color_story", put("color_story", rng, **names), story, SHORTEST),
        Question("changes", put("changes", rng, **names), "yes" if item.changes else "no", SHORTEST),
        Question("direction", put("direction", rng, **names), motion, SHORTEST),
        Question("which_end", put("which_end", rng, color=item.last), item.shape, ANY),
    ]


def clip_questions(story: Story, rng: random.Random | None = None) -> list[Question]:
    """Every question about the whole video, worded as evaluation words it, or in any way if `rng` is given."""
    found = [question for item in story.items for question in _item_questions(item, rng)]
    for place, ordinal in enumerate(ORDINALS):
        name = story.items[place].shape if place < len(story.items) else NOTHING
        found.append(Question("order", put("order", rng, ordinal=ordinal), name, SHORTEST))
    digits = [str(d) for d in story.digits]
    found += [
        Question("count", put("count", rng), str(len(story.items)), ANY),
        Question("digits", put("digits", rng), _join(digits), SHORTEST),
        Question("first_digit", put("first_digit", rng), digits[0], SHORTEST),
        Question("last_digit", put("last_digit", rng), digits[-1], ANY),
        Question("digit_count", put("digit_count", rng), str(len(digits)), SHORTEST),
        Question("events", put("events", rng), describe_events(story), EVENT_GAP),
    ]
    return found


def image_questions(story: Story, time: float, rng: random.Random | None = None) -> list[Question]:
    """Every question about the single frame at `time`. Raises ValueError if the time is outside the scene."""
    if not 0 <= time < FRAMES:
        raise ValueError(f"time={time}: expected 0 <= time < {FRAMES}")
    visible = [
        (item.shape, item.last if time >= item.change else item.first) for item in story.items if time >= item.appear
    ]
    digit = next(d for d, start in zip(reversed(story.digits), reversed(story.starts), strict=True) if time >= start)
    found = []
    for shape, color in visible:
        found.append(Question("image_color", put("image_color", rng, shape=shape), color, ANY))
        found.append(Question("image_which", put("image_which", rng, color=color), shape, ANY))
    nouns = [f"a {_noun(color, shape)}" for shape, color in visible]
    return [
        *found,
        Question("image_digit", put("image_digit", rng), str(digit), ANY),
        Question("image_count", put("image_count", rng), str(len(visible)), ANY),
        Question("image_describe", put("image_describe", rng), _sentence(_join([*nouns, f"the digit {digit}"])), ANY),
    ]
