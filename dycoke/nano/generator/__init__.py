"""Synthetic videos from integer seeds: what happens in them, how they look, and what can be asked about them."""

from dycoke.nano.generator.levels import LEVELS, STANDARD
from dycoke.nano.generator.questions import FAMILIES, LONG_TASKS, Family, Question, clip_questions, image_questions
from dycoke.nano.generator.render import FRAME, Frames, render
from dycoke.nano.generator.scene import Scene, sample_scenes
from dycoke.nano.generator.schedule import TICKS
from dycoke.nano.generator.story import Story, stories

__all__ = [
    "FAMILIES",
    "FRAME",
    "LEVELS",
    "LONG_TASKS",
    "STANDARD",
    "TICKS",
    "Family",
    "Frames",
    "Question",
    "Scene",
    "Story",
    "clip_questions",
    "image_questions",
    "render",
    "sample_scenes",
    "stories",
]
