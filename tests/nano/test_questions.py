"""Questions and answers of a scene written by hand."""

import random

import pytest
import torch

from dycoke.nano.generator import FRAMES, Scene, clip_questions, image_questions, stories
from dycoke.nano.generator.phrasing import CLIP_TASKS, IMAGE_TASKS, WORDINGS, put
from dycoke.nano.generator.scene import COLORS, DIRECTIONS, SHAPES

RED, GREEN, BLUE = (COLORS.index(name) for name in ("red", "green", "blue"))


@pytest.fixture
def story():
    """A green circle appears at 2 and moves up, a red square at 12 and stays; the circle turns blue at 20."""
    scene = Scene(
        seed=torch.tensor([0]),
        count=torch.tensor([2]),
        shape=torch.tensor([[SHAPES.index("square"), SHAPES.index("circle"), SHAPES.index("cross")]]),
        first_color=torch.tensor([[RED, GREEN, 5]]),
        last_color=torch.tensor([[RED, BLUE, 5]]),
        direction=torch.tensor([[DIRECTIONS.index("still"), DIRECTIONS.index("up"), 0]]),
        changes=torch.tensor([[False, True, False]]),
        appear=torch.tensor([[12, 2, 20]]),
        change=torch.tensor([[FRAMES, 20, FRAMES]]),
        slot=torch.tensor([[0, 1, 2]]),
        radius=torch.tensor([[6.0, 6.0, 6.0]]),
        digit_count=torch.tensor([3]),
        digits=torch.tensor([[7, 0, 7, 1, 1, 1]]),
        digit_start=torch.tensor([[0, 10, 20, FRAMES, FRAMES, FRAMES]]),
        digit_column=torch.tensor([20]),
    )
    return stories(scene)[0]


def test_answers_about_a_clip(story):
    answers = {question.text: question.answer for question in clip_questions(story)}
    assert answers == {
        "What color is the circle at the end?": "blue",
        "What color is the circle when it appears?": "green",
        "What color is the circle?": "green, then blue",
        "Does the circle change color?": "yes",
        "Which way does the circle move?": "up",
        "Which object is blue at the end?": "circle",
        "What color is the square at the end?": "red",
        "What color is the square when it appears?": "red",
        "What color is the square?": "red",
        "Does the square change color?": "no",
        "Which way does the square move?": "It stays still",
        "Which object is red at the end?": "square",
        "Which object appears first?": "circle",
        "Which object appears second?": "square",
        "Which object appears third?": "none",
        "How many objects appear?": "2",
        "Which digits are shown, in order?": "7, 0, 7",
        "What is the first digit?": "7",
        "What is the last digit?": "7",
        "How many digits are shown?": "3",
        "Describe the events in order.": "A green circle appears and moves up, then a red square appears and "
        "stays still, then the circle turns blue.",
    }
    assert {question.task for question in clip_questions(story)} == set(CLIP_TASKS)


@pytest.mark.parametrize(
    ("time", "answers"),
    [
        (1.0, ["7", "0", "The digit 7."]),
        (13.5, ["green", "circle", "red", "square", "0", "2", "A green circle, a red square, the digit 0."]),
        (20.0, ["blue", "circle", "red", "square", "7", "2", "A blue circle, a red square, the digit 7."]),
    ],
)
def test_answers_about_a_frame(story, time, answers):
    questions = image_questions(story, time)
    assert [question.answer for question in questions] == answers
    assert {question.task for question in questions} <= set(IMAGE_TASKS)


@pytest.mark.parametrize("time", [-0.5, FRAMES])
def test_a_frame_outside_the_scene_is_refused(story, time):
    with pytest.raises(ValueError, match="time="):
        image_questions(story, time)


def test_wordings_name_what_they_ask_about():
    rng = random.Random(0)
    names = {"shape": "circle", "color": "blue", "ordinal": "second"}
    for task, wordings in WORDINGS.items():
        seen = {put(task, rng, **names) for _ in range(300)}
        assert len(seen) > len(wordings)  # some are typed carelessly
        for placeholder, name in names.items():
            if "{" + placeholder + "}" in wordings[0]:
                assert all(name in text for text in seen)
        assert put(task, None, **names) == wordings[0].format(**names)


def test_wording_does_not_change_answers(story):
    plain = clip_questions(story)
    varied = clip_questions(story, random.Random(3))
    assert [(q.task, q.answer) for q in plain] == [(q.task, q.answer) for q in varied]
    assert [q.text for q in plain] != [q.text for q in varied]
