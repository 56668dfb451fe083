"""Synthetic videos from integer seeds: what happens in them, how they look, and what can be asked about them."""

from dycoke.nano.generator.questions import Question, Story, clip_questions, image_questions, stories
from dycoke.nano.generator.render import Frames, render
from dycoke.nano.generator.scene import FRAMES, Scene, sample_scenes

__all__ = [
    "FRAMES",
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
