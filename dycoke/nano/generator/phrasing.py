"""Wordings of each question. Evaluation uses the first wording of a task."""

from __future__ import annotations

import random

WORDINGS: dict[str, tuple[str, ...]] = {
    "digits": (
        "Which digits are shown, in order?",
        "Read the digits in order.",
        "What digits appear in the video, in order?",
        "Which numbers are shown, one after another?",
        "List all the digits in the order they are shown.",
        "What is the sequence of digits?",
        "What numbers appear at the top?",
    ),
    "first_digit": (
        "What is the first digit?",
        "Which digit is shown first?",
        "What is the first number shown?",
    ),
    "last_digit": (
        "What is the last digit?",
        "Which digit is shown last?",
        "Which digit is shown at the end?",
        "What is the last number shown?",
    ),
    "digit_count": (
        "How many digits are shown?",
        "How many numbers appear?",
        "How many digits appear in the video?",
    ),
    "color_end": (
        "What color is the {shape} at the end?",
        "What is the color of the {shape} at the end?",
        "What is the final color of the {shape}?",
        "At the end of the video, what color is the {shape}?",
        "Which color does the {shape} have at the end?",
        "What colour is the {shape} at the end of the video?",
        "What color is the {shape} in the last frame?",
    ),
    "color_start": (
        "What color is the {shape} when it appears?",
        "What color is the {shape} at the start?",
        "What color is the {shape} at first?",
        "What is the color of the {shape} when it appears?",
        "What is the first color of the {shape}?",
        "Which color does the {shape} have at the beginning?",
        "What colour is the {shape} at the beginning?",
    ),
    "turns": (
        "What color does the {shape} turn?",
        "Which color does the {shape} turn?",
        "What color does the {shape} change to?",
        "What colour does the {shape} become?",
    ),
    "direction": (
        "Which way does the {shape} move?",
        "In which direction does the {shape} move?",
        "Where does the {shape} move?",
        "What direction does the {shape} go?",
        "How does the {shape} move?",
        "Which way does the {shape} go?",
    ),
    "order": (
        "Which object appears {ordinal}?",
        "What object appears {ordinal}?",
        "Which shape appears {ordinal}?",
        "What is the {ordinal} object to appear?",
        "Which is the {ordinal} object?",
    ),
    "count": (
        "How many objects appear?",
        "How many objects are there?",
        "How many objects appear in the video?",
        "How many shapes are there?",
        "How many shapes appear in the video?",
        "What is the number of objects in the video?",
    ),
    "moving_count": (
        "How many objects move?",
        "How many of the objects move?",
        "How many shapes move?",
        "What is the number of moving objects?",
    ),
    "existence": (
        "What color is the {shape} at first, if there is one?",
        "What is the first color of the {shape}, if there is one?",
        "Is there a {shape}, and what color is it at first?",
        "Which color does the {shape} have at first, if it appears?",
    ),
    "position_start": (
        "Where does the {shape} appear?",
        "In which part of the picture does the {shape} appear?",
        "Where is the {shape} at first?",
        "Where is the {shape} when it appears?",
    ),
    "position_end": (
        "Where is the {shape} at the end?",
        "In which part of the picture is the {shape} at the end?",
        "Where is the {shape} in the last frame?",
    ),
    "covered": (
        "Which object does the box cover?",
        "Which object is covered by the box?",
        "What is behind the box?",
        "Which object is hidden at the end?",
    ),
    "covered_color": (
        "What color is the object behind the box?",
        "What is the color of the covered object?",
        "Which color does the hidden object have?",
    ),
    "speed": (
        "How does the {shape} move, fast or slowly?",
        "Does the {shape} move fast or slowly?",
        "Is the {shape} fast or slow?",
        "What is the speed of the {shape}?",
    ),
    "flash_count": (
        "How many times does the lamp flash?",
        "How often does the lamp flash?",
        "How many flashes of the lamp are there?",
        "Count the flashes of the lamp.",
    ),
    "transcript": (
        "Write down all digits and letters in order.",
        "Transcribe the video.",
        "Read all that is written in the video, in order.",
        "Which digits and letters are shown, in order?",
    ),
    "events": (
        "Describe the events in order.",
        "Describe the video.",
        "Describe what happens in the video.",
        "What happens in the video?",
        "Describe all events in the order they happen.",
        "Describe the video in detail.",
        "What happens, in order?",
    ),
    "image_color": (
        "What color is the {shape}?",
        "What is the color of the {shape}?",
        "Which color is the {shape}?",
        "What color is the {shape} in the image?",
        "What colour is the {shape}?",
    ),
    "image_existence": (
        "What color is the {shape}, if there is one?",
        "Is there a {shape}, and what color is it?",
        "Which color is the {shape}, if it appears?",
    ),
    "image_digit": (
        "Which digit is shown?",
        "What digit is shown?",
        "Which number is shown in the image?",
        "What number is it?",
    ),
    "image_count": (
        "How many objects are there?",
        "How many objects are in the image?",
        "How many shapes are shown?",
    ),
    "image_which": (
        "Which object is {color}?",
        "Which shape is {color}?",
        "What object is {color}?",
    ),
    "image_position": (
        "Where is the {shape}?",
        "In which part of the picture is the {shape}?",
        "Where is the {shape} in the image?",
    ),
    "image_letter": (
        "Which letter is shown?",
        "What letter is shown?",
        "Which letter is in the image?",
    ),
}

CLIP_TASKS = tuple(task for task in WORDINGS if not task.startswith("image_"))
IMAGE_TASKS = tuple(task for task in WORDINGS if task.startswith("image_"))

_CARELESS = 0.08


def put(task: str, rng: random.Random | None, **names: str) -> str:
    """The question as text: the first wording if rng is None, else any, now and then typed carelessly."""
    wordings = WORDINGS[task]
    if rng is None:
        return wordings[0].format(**names)
    text = rng.choice(wordings).format(**names)
    if rng.random() < _CARELESS:
        text = text[0].lower() + text[1:]
    return text.rstrip("?.") if rng.random() < _CARELESS else text
