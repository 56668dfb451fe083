"""Questions and answers: of a scene written by hand, and of drawn ones, answered again by watching their pixels."""

import random
import re
from collections import Counter

import pytest
import torch

from dycoke.nano.generator import (
    FAMILIES,
    LEVELS,
    TICKS,
    clip_questions,
    image_questions,
    render,
    sample_scenes,
    stories,
)
from dycoke.nano.generator.phrasing import CLIP_TASKS, IMAGE_TASKS, WORDINGS, put
from dycoke.nano.generator.scene import SHAPES
from dycoke.nano.generator.splits import split_seeds
from tests.nano.watching import Video

STORIES = stories(sample_scenes(torch.arange(300)))


@pytest.fixture
def story(written):
    return stories(written)[0]


def test_answers_about_a_clip(story):
    answers = {q.text: q.answer for q in clip_questions(story) if q.task != "existence"}
    assert answers == {
        "What color is the circle when it appears?": "green",
        "Where does the circle appear?": "bottom middle",
        "Which way does the circle move?": "up",
        "What color does the circle turn?": "blue",
        "How does the circle move, fast or slowly?": "fast",
        "What color is the square when it appears?": "red",
        "Where does the square appear?": "bottom left",
        "Which way does the square move?": "It stays still",
        "What color does the square turn?": "none",
        "What color is the square at the end?": "red",
        "Where is the square at the end?": "bottom left",
        "What color is the cross when it appears?": "yellow",
        "Where does the cross appear?": "top right",
        "Which way does the cross move?": "left",
        "What color does the cross turn?": "none",
        "How does the cross move, fast or slowly?": "slowly",
        "Which object appears first?": "circle",
        "Which object appears second?": "square",
        "Which object appears third?": "cross",
        "Which object appears fourth?": "none",
        "How many objects appear?": "3",
        "How many objects move?": "2",
        "Which object does the box cover?": "circle",
        "What color is the object behind the box?": "blue",
        "Which digits are shown, in order?": "7, 0, 7",
        "What is the first digit?": "7",
        "What is the last digit?": "7",
        "How many digits are shown?": "3",
        "How many times does the lamp flash?": "2",
        "Write down all digits and letters in order.": "7 A 0 7 T",
        "Describe the events in order.": "A green circle appears and moves up, then a red square appears and stays "
        "still, then the circle turns blue, then a yellow cross appears and moves left, then a box covers the circle, "
        "then the cross leaves.",
    }
    assert {question.task for question in clip_questions(story)} == set(CLIP_TASKS)


def test_spacing_of_a_clip_is_what_its_events_leave(story):
    spacing = {question.text: question.spacing for question in clip_questions(story)}
    assert spacing["What color is the circle when it appears?"] == 18
    assert spacing["What color does the circle turn?"] == 18
    assert spacing["What color is the square at the end?"] == 52
    assert spacing["Which way does the circle move?"] == 4
    assert spacing["Which object does the box cover?"] == 24
    assert spacing["What color is the object behind the box?"] == 20
    assert spacing["Which digits are shown, in order?"] == 4
    assert spacing["How many times does the lamp flash?"] == 2
    assert spacing["Write down all digits and letters in order."] == 4
    assert spacing["Describe the events in order."] == 4  # its motions; events of objects are 4 apart and more
    assert spacing["How many objects appear?"] == 4  # the cross leaves at 60


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_what_one_sees(level):
    """The same answers, recomputed from pixels by code that knows neither scenes nor stories."""
    seeds = split_seeds("validation", 0, 8)
    for seed, story in zip(seeds, stories(sample_scenes(seeds, level)), strict=True):
        video = Video(sample_scenes(seed[None], level))
        asked = clip_questions(story)
        assert [(q.text, video.answer(q)) for q in asked] == [(q.text, q.answer) for q in asked]


def test_answers_about_frames_are_what_one_sees():
    seeds = split_seeds("train", 50, 6)
    for seed, story in zip(seeds, stories(sample_scenes(seeds)), strict=True):
        video = Video(sample_scenes(seed[None]))
        for tick in range(0, TICKS, 7):
            now = {shape: look for shape, looks in video.looks.items() for look in looks if look.tick == tick}
            for question in image_questions(story, tick):
                words = question.text.rstrip("?.").replace(",", "").split()
                if question.task == "image_color":
                    assert now[words[-1]].color == question.answer
                elif question.task == "image_which":
                    assert [shape for shape, look in now.items() if look.color == words[-1]] == [question.answer]
                elif question.task == "image_position":
                    assert now[words[-1]].place == question.answer
                elif question.task == "image_count":
                    assert question.answer == str(len(now))
                elif question.task == "image_existence":
                    shape = next(word for word in words if word in SHAPES)
                    assert question.answer == (now[shape].color if shape in now else "none")


def test_frames_show_the_digit_and_letter_that_is_said():
    seeds = split_seeds("train", 50, 6)
    for seed, story in zip(seeds, stories(sample_scenes(seeds)), strict=True):
        frames = render(sample_scenes(seed[None]), torch.arange(TICKS)[None])
        for tick in range(TICKS):
            said = {q.task: q.answer for q in image_questions(story, tick)}
            digit, letter = frames.digit[0, tick].item(), frames.letter[0, tick].item()
            assert said["image_digit"] == ("none" if digit == 10 else str(digit))
            assert said["image_letter"] == ("none" if letter == 10 else "ACEFHJLPTU"[letter])


def test_things_that_exist_and_one_that_does_not_are_asked_for():
    for story in STORIES:
        asked = [q for q in clip_questions(story) if q.task == "existence"]
        shapes = [next(shape for shape in SHAPES if shape in q.text) for q in asked]
        assert len(set(shapes)) == len(shapes) == 3
        first = {actor.shape: actor.color for actor in story.actors}
        assert [q.answer for q in asked] == [first.get(shape, "none") for shape in shapes]
        assert [q.answer == "none" for q in asked] == [False, False, True]


def test_an_goes_before_vowels():
    texts = [t for story in STORIES for q in clip_questions(story) for t in (q.text, q.answer)]
    found = Counter(re.findall(r"\b(an?) (\w)", " ".join(texts), re.IGNORECASE))
    assert {vowel for (article, vowel) in found if article.lower() == "an"} == {"o"}
    assert "o" not in {letter for (article, letter) in found if article.lower() == "a"}


def test_no_answer_of_a_family_is_the_rule():
    """Who always says the same is mostly wrong."""
    said = {}
    for story in STORIES:
        for question in clip_questions(story):
            said.setdefault(question.task, Counter())[question.answer] += 1
    for family in FAMILIES.values():
        for task in family.tasks:
            commonest = said[task].most_common(1)[0][1] / said[task].total()
            assert commonest < 0.57, (task, said[task].most_common(3))


def test_families_ask_questions_that_exist():
    assert len(FAMILIES) == 12 and [family.name for family in FAMILIES.values()] == list(FAMILIES)
    tasks = [task for family in FAMILIES.values() for task in family.tasks]
    assert len(tasks) == len(set(tasks)) and set(tasks) <= set(CLIP_TASKS)
    assert [name for name, family in FAMILIES.items() if family.long] == ["events", "transcript"]


@pytest.mark.parametrize("tick", [-1, TICKS])
def test_a_frame_outside_the_scene_is_refused(story, tick):
    with pytest.raises(ValueError, match=f"tick={tick}"):
        image_questions(story, tick)


def test_a_frame_in_a_motion_is_not_asked_for_places(story):
    asked = {tick: [q.text for q in image_questions(story, tick) if q.task == "image_position"] for tick in (4, 8, 11)}
    assert asked == {4: ["Where is the circle?"], 8: [], 11: ["Where is the circle?"]}
    assert {q.task for tick in range(TICKS) for q in image_questions(story, tick)} == set(IMAGE_TASKS)


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
    assert [(q.task, q.answer, q.spacing) for q in plain] == [(q.task, q.answer, q.spacing) for q in varied]
    assert [q.text for q in plain] != [q.text for q in varied]
