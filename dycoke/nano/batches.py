"""Training and evaluation rows: the questions of a scene as chat turns, and which tokens are answers.

A row is  prefix, visual tokens, newline, "\\n" question 1 .. answer 1 .. question 2 ..  exactly as the conversation
template writes it, so a question asked alone at test time sees what the first turn sees in training.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dycoke.nano.generator import (
    LEVELS,
    LONG_TASKS,
    STANDARD,
    Question,
    Scene,
    clip_questions,
    image_questions,
    sample_scenes,
    stories,
)
from dycoke.nano.generator.randomness import bits, integers
from dycoke.nano.generator.splits import split_seed, split_seeds
from dycoke.nano.views import View, draw_view, spacing

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

IGNORE = -100
ROW_TOKENS = 320

_PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_ASK, _END, _NEXT = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "\n<|im_start|>user\n"
_FIRST_TURN, _SHORT_ANSWER, _SHORT = 2.0, 2.0, 3
_ALIKE = 2
_LEVEL_SHARES = {"easy": 20, "standard": 55, "hard": 25}  # percent
_LEVEL_FIELD, _SEED_FIELD = 61, 60


@dataclass(frozen=True, slots=True)
class Rows:
    """Text after the visual tokens, B rows of L tokens: ids [B, L] int64; labels [B, L], IGNORE off the answers;
    weights [B, L] float, 0 off the answers."""

    ids: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> Rows:
        return Rows(*(t.to(device, non_blocking=True) for t in (self.ids, self.labels, self.weights)))


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's material of a training step: scenes to draw, how to look at them, and the chat about each."""

    number: int
    scene: Scene
    view: View
    rows: Rows


class Chat:
    """Writes questions and answers as token ids of the conversation template."""

    def __init__(self, tokenizer: Qwen2Tokenizer):
        self.pad = tokenizer.pad_token_id
        self.encode = lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer(text).input_ids))
        self.prefix = self.encode(_PREFIX)

    def turn(self, question: Question, first: bool) -> tuple[list[int], list[int]]:
        """Text given and text to be said, of one turn; what is said ends with the end mark."""
        opening = self.encode("\n" if first else _NEXT)
        given = [*opening, *self.encode(question.text), *self.encode(_ASK)]
        return given, [*self.encode(question.answer), *self.encode(_END)]

    def row(self, questions: Sequence[Question], length: int) -> tuple[list[int], list[int], list[float]]:
        """ids, labels and weights of a chat, each `length` long. Raises ValueError if it does not fit."""
        ids: list[int] = []
        labels: list[int] = []
        weights: list[float] = []
        for number, question in enumerate(questions):
            given, said = self.turn(question, number == 0)
            weight = (_FIRST_TURN if number == 0 else 1.0) * (_SHORT_ANSWER if len(said) <= _SHORT else 1.0)
            ids += given + said
            labels += [IGNORE] * len(given) + said
            weights += [0.0] * len(given) + [weight] * len(said)
        missing = length - len(ids)
        if missing < 0:
            raise ValueError(f"a chat of {len(ids)} tokens does not fit in {length}")
        return ids + [self.pad] * missing, labels + [IGNORE] * missing, weights + [0.0] * missing

    def fitting(self, questions: Sequence[Question], length: int) -> list[Question]:
        """Those questions, in their order, whose turns fit in `length` tokens together."""
        chosen = []
        for question in questions:
            size = sum(map(len, self.turn(question, not chosen)))
            if size <= length:
                chosen.append(question)
                length -= size
        return chosen


def _arrange(questions: list[Question], rng: random.Random) -> list[Question]:
    """Shuffled, at most _ALIKE of a task, and the long accounts often first (so that they fit) or never.

    After them, the short questions could be answered from the text.
    """
    rng.shuffle(questions)
    asked: Counter[str] = Counter()
    chosen = []
    for question in questions:
        asked[question.task] += 1
        if asked[question.task] <= _ALIKE:
            chosen.append(question)
    questions = chosen
    place = rng.random()
    long = [q for q in questions if q.task in LONG_TASKS]
    short = [q for q in questions if q.task not in LONG_TASKS]
    if place < 0.4:
        return long + short
    return short if place < 0.8 else questions


def make_rows(chats: Sequence[Sequence[Question]], chat: Chat, length: int) -> Rows:
    """Rows of the given chats, padded on the right to `length` tokens."""
    ids, labels, weights = zip(*(chat.row(questions, length) for questions in chats), strict=True)
    return Rows(torch.tensor(ids), torch.tensor(labels), torch.tensor(weights))


class TrainingData(Dataset):
    """Batch number i is a function of (seed, i) alone, so that a resumed run sees what an uninterrupted one sees.

    The batches of one step, `processes` neighbours, show different scenes at the same ticks and grid, so that no
    process waits for another's longer clip.
    """

    def __init__(self, tokenizer: Qwen2Tokenizer, seed: int, batch: int, steps: int, processes: int = 1):
        """`steps`: how many a whole run takes, which decides how early a batch is."""
        self.chat = Chat(tokenizer)
        self.seed = seed
        self.batch = batch
        self.steps = steps
        self.processes = processes

    def __getitem__(self, number: int) -> Batch:
        start = torch.arange(number * self.batch, (number + 1) * self.batch) + (self.seed << 40)
        scene = sample_scenes(split_seed(bits(start, _SEED_FIELD, 1)[:, 0], "train"), _levels(start))
        step = number // self.processes
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        view = draw_view(self.batch, generator, step / self.steps)
        rng = random.Random(self.seed * 1_000_003 + number)
        chats = []
        for story, widest, first in zip(stories(scene), spacing(view.ticks), view.ticks[:, 0].tolist(), strict=True):
            if view.kind == "image":
                asked = image_questions(story, first, rng)
            else:
                asked = [q for q in clip_questions(story, rng) if widest <= q.spacing]
            chats.append(self.chat.fitting(_arrange(asked, rng), ROW_TOKENS))
        return Batch(number, scene, view, make_rows(chats, self.chat, ROW_TOKENS))


def _levels(numbers: Tensor) -> Tensor:
    """The level of each scene, int64 [B], in the shares of _LEVEL_SHARES."""
    border = torch.tensor([_LEVEL_SHARES[name] for name in LEVELS]).cumsum(0)[:-1]
    return torch.bucketize(integers(numbers, _LEVEL_FIELD, 0, 100), border, right=True)


def evaluation_scenes(count: int, start: int = 0, split: str = "validation", level: str = STANDARD) -> Scene:
    """Scenes that training never draws. Raises ValueError if count < 1, start < 0, or for an unknown split or level."""
    return sample_scenes(split_seeds(split, start, count), level)
