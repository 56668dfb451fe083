"""Questions about a scene, and the right answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from dycoke.nano.generator.phrasing import put
from dycoke.nano.generator.randomness import pick
from dycoke.nano.generator.scene import SHAPES
from dycoke.nano.generator.schedule import TICKS, Field
from dycoke.nano.generator.story import Actor, Shown, Story

ORDINALS = ("first", "second", "third", "fourth", "fifth")
STILL = "It stays still"
NOTHING = "none"
_SEEN_MOVING = 4  # ticks between frames at which a motion can still be told, and a fast one from a slow one


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its right answer, and the widest spacing of frames (ticks) that still shows the answer."""

    task: str
    text: str
    answer: str
    spacing: int


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question that the benchmark scores; long: its answers are scored word by word.

    tasks: those of questions it may ask; the others are asked in training only.
    """

    name: str
    tasks: tuple[str, ...]
    long: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family("direction", ("direction",)),
        Family("moving_count", ("moving_count",)),
        Family("existence", ("existence",)),
        Family("order", ("order",)),
        Family("state", ("color_start", "color_end")),
        Family("position", ("position_start", "position_end")),
        Family("occlusion", ("covered", "covered_color")),
        Family("speed", ("speed",)),
        Family("digits", ("digits",)),
        Family("flash_count", ("flash_count",)),
        Family("events", ("events",), long=True),
        Family("transcript", ("transcript",), long=True),
    )
}
LONG_TASKS = tuple(task for family in FAMILIES.values() if family.long for task in family.tasks)


def clip_questions(story: Story, rng: random.Random | None = None) -> list[Question]:
    """Every question about the whole video, worded as evaluation words it, or in any way if `rng` is given."""
    asked: list[tuple[str, dict[str, str], str, int]] = []
    for actor in story.actors:
        asked += [(task, {"shape": actor.shape}, answer, spacing) for task, answer, spacing in _about(actor)]
    things = _things([(actor.color, actor.shape) for actor in story.actors], story.seed)
    asked += [("existence", {"shape": shape}, answer, _briefest_look(story)) for shape, answer in things]
    apart = _closest([actor.appear for actor in story.actors])
    # one more than there are, for those who would name any object
    for place, ordinal in enumerate(ORDINALS[: len(story.actors) + 1]):
        name = story.actors[place].shape if place < len(story.actors) else NOTHING
        asked.append(("order", {"ordinal": ordinal}, name, min(apart, _briefest_look(story))))
    asked += [(task, {}, answer, spacing) for task, (answer, spacing) in _about_all(story).items()]
    return [Question(task, put(task, rng, **names), answer, spacing) for task, names, answer, spacing in asked]


def _about(actor: Actor) -> list[tuple[str, str, int]]:
    """(task, answer, spacing) of what is asked about one object."""
    stay = min(actor.leave, actor.cover) - actor.appear
    begins = min(actor.change, actor.leave, actor.cover) - actor.appear
    found = [
        ("color_start", actor.color, begins),
        ("position_start", actor.start, min(_SEEN_MOVING, stay)),
        ("direction", actor.direction if actor.moves else STILL, min(_SEEN_MOVING, stay)),
        ("turns", actor.turned if actor.changes else NOTHING, min(begins, stay - begins or stay)),
    ]
    if actor.moves:
        found.append(("speed", "fast" if actor.fast else "slowly", _SEEN_MOVING))
    if actor.stays:
        found.append(("color_end", actor.turned, TICKS - (actor.change if actor.changes else actor.appear)))
        found.append(("position_end", actor.end, min(_SEEN_MOVING, stay)))
    return found


def _about_all(story: Story) -> dict[str, tuple[str, int]]:
    """task -> (answer, spacing) of what is asked once about a video."""
    digits, covered, look = story.digits, story.covered, _briefest_look(story)
    hidden = look if covered is None else min(covered.cover - covered.appear, TICKS - covered.cover)
    last = covered.cover - max(covered.appear, covered.change if covered.changes else 0) if covered else look
    signs = story.signs
    return {
        "count": (str(len(story.actors)), look),
        "moving_count": (str(sum(actor.moves for actor in story.actors)), min(_SEEN_MOVING, look)),
        "covered": (covered.shape if covered else NOTHING, hidden),
        "covered_color": (covered.turned if covered else NOTHING, min(hidden, last)),
        "digits": (", ".join(shown.sign for shown in digits), _shortest(digits)),
        "first_digit": (digits[0].sign, _shortest(digits[:1])),
        "last_digit": (digits[-1].sign, _shortest(digits[-1:])),
        "digit_count": (str(len(digits)), _shortest(digits)),
        "flash_count": (str(len(story.flashes)), _shortest(story.flashes)),
        "events": (
            describe_events(story),
            min(_SEEN_MOVING, _closest(sorted(time for time, _ in _events(story)))),
        ),
        "transcript": (
            " ".join(shown.sign for shown in signs),
            min(_shortest(signs), _closest([shown.begin for shown in signs])),
        ),
    }


def _closest(ticks: list[int]) -> int:
    """The shortest distance between neighbours, and to the end of the scene."""
    return min((later - earlier for earlier, later in pairwise([*ticks, TICKS])), default=TICKS)


def _shortest(shown: tuple[Shown, ...] | list[Shown]) -> int:
    """Ticks that the briefest of the signs is shown, and between one and the next where nothing tells them apart."""
    lengths = [each.end - each.begin for each in shown]
    gaps = [later.begin - earlier.end for earlier, later in pairwise(shown) if earlier.sign == later.sign]
    return min([*lengths, *gaps], default=TICKS)


def _briefest_look(story: Story) -> int:
    """Ticks that the briefest of the objects' looks lasts, from one of its events to the next."""
    return min(
        _closest(sorted({actor.appear, actor.change, actor.leave, actor.cover} - {TICKS})) for actor in story.actors
    )


def _things(looks: list[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """(shape, its color or "none") of what to ask for: two that are among the looks (color, shape), or the
    only one, and one that is not.

    The answer is not a plain yes or no, which the embedded model did not learn to give. Empty if there are no looks.
    """
    if not looks:
        return []
    there = {shape for _, shape in looks}
    absent = [shape for shape in SHAPES if shape not in there]
    first = pick(seed, Field.ASKED, len(looks))
    second = (first + 1 + pick(seed, Field.ASKED_AGAIN, len(looks) - 1)) % len(looks) if len(looks) > 1 else first
    chosen = [(shape, color) for color, shape in (looks[place] for place in dict.fromkeys((first, second)))]
    return [*chosen, (absent[pick(seed, Field.ABSENT, len(absent))], NOTHING)]


def _events(story: Story) -> list[tuple[int, str]]:
    """(tick, clause) of all that happens to objects."""
    found = []
    for actor in story.actors:
        motion = f"moves {actor.direction}" if actor.moves else "stays still"
        found.append((actor.appear, f"{_a(actor.color)} {actor.shape} appears and {motion}"))
        found.append((actor.change, f"the {actor.shape} turns {actor.turned}"))
        found.append((actor.leave, f"the {actor.shape} leaves"))
        found.append((actor.cover, f"a box covers the {actor.shape}"))
    return sorted((tick, clause) for tick, clause in found if tick < TICKS)


def describe_events(story: Story) -> str:
    """Sentence of all that happens to objects, in order of time."""
    return _sentence(", then ".join(clause for _, clause in _events(story)))


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def image_questions(story: Story, tick: int, rng: random.Random | None = None) -> list[Question]:
    """Every question about the single frame at `tick`. Raises ValueError if the tick is outside the scene."""
    if not 0 <= tick < TICKS:
        raise ValueError(f"tick={tick}: expected 0 to {TICKS - 1}")
    visible = [actor for actor in story.actors if actor.appear <= tick < min(actor.leave, actor.cover)]
    looks = [(actor.turned if tick >= actor.change else actor.color, actor.shape) for actor in visible]

    def sign(shown: tuple[Shown, ...]) -> str:
        return next((each.sign for each in shown if each.begin <= tick < each.end), NOTHING)

    asked = [("image_color", {"shape": shape}, color) for color, shape in looks]
    asked += [("image_which", {"color": color}, shape) for color, shape in looks]
    for actor in visible:
        if tick < actor.begin:
            asked.append(("image_position", {"shape": actor.shape}, actor.start))
        elif tick >= actor.begin + actor.pace:
            asked.append(("image_position", {"shape": actor.shape}, actor.end))
    asked += [("image_existence", {"shape": shape}, answer) for shape, answer in _things(looks, story.seed + tick)]
    asked += [
        ("image_digit", {}, sign(story.digits)),
        ("image_letter", {}, sign(story.letters)),
        ("image_count", {}, str(len(looks))),
    ]
    return [Question(task, put(task, rng, **names), answer, TICKS) for task, names, answer in asked]
