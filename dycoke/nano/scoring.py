"""Exact match by one forward pass per video: a greedy answer is right if, fed with the right answer, every argmax is.

Used while training, where generating every answer would take longer than the training itself. `evaluate` generates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dycoke.nano.augment import normalise, to_unit
from dycoke.nano.batches import IGNORE, Chat, evaluation_scenes, make_rows
from dycoke.nano.generator import FRAME, Question, clip_questions, render, stories
from dycoke.nano.step import NanoStep
from dycoke.nano.views import native_view
from dycoke.types import Compressor, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 16

Tally = dict[str, tuple[int, int]]
"""(right, asked) of each task."""


def add(tally: Tally, task: str, right: bool) -> None:
    """Count one answer."""
    hits, asked = tally.get(task, (0, 0))
    tally[task] = (hits + right, asked + 1)


def refuse_needs(compressor: Compressor) -> None:
    """Raise ValueError for a compressor that needs more than tokens, which is all there is where answers are scored."""
    if compressor.needs:
        needed = ", ".join(sorted(compressor.needs))
        raise ValueError(
            f"{type(compressor).__name__} needs {needed}, but here there are only tokens; attach it and use generate"
        )


def _compress(tokens: Tensor, grid: int, compressor: Compressor | None) -> tuple[Tensor, Tensor | None]:
    """Tokens [1, F, N, D] -> what is left [1, M, D], and its slots [M] if it keeps its own positions."""
    if compressor is None:
        return tokens.flatten(1, 2), None
    refuse_needs(compressor)
    left = compressor.compress(VisualTokens(tokens[0], (grid, grid)))
    return left.embeds[None], left.index if compressor.positions == "original" else None


def _positions(index: Tensor | None, slots: int, prefix: int, text: int) -> Tensor | None:
    if index is None:
        return None
    ahead = torch.arange(prefix, device=index.device)
    after = torch.arange(1 + text, device=index.device) + prefix + slots
    return torch.cat([ahead, prefix + index, after])[None]


def _right(step: NanoStep, tokens: Tensor, questions: list[Question], chat: Chat, positions_of) -> list[bool]:
    length = max(sum(map(len, chat.turn(question, True))) for question in questions)
    rows = make_rows([[question] for question in questions], chat, length).to(tokens.device)
    visual = tokens.expand(len(questions), -1, -1)
    said = step.text_logits(step.last_layer(visual, rows, positions_of(length)), rows).argmax(-1)
    return ((said == rows.labels) | (rows.labels == IGNORE)).all(1).tolist()


@torch.inference_mode()
def exact_match(
    step: NanoStep, chat: Chat, videos: int, device: torch.device, compressor: Compressor | None = None
) -> Tally:
    """Tally over `videos` evaluation scenes, every question asked alone in its first wording.

    `compressor` is applied to the pooled tokens, as the llava package does with an attached method.
    """
    tally: Tally = {}
    for start in range(0, videos, _CHUNK):
        scene = evaluation_scenes(min(_CHUNK, videos - start), start)
        view = native_view(len(scene))
        pixels = render(scene.to(device), view.ticks.to(device), FRAME).pixels
        tokens, _ = step.visual_tokens(normalise(to_unit(pixels)), view.grid)
        for video, story in zip(tokens, stories(scene), strict=True):
            questions = clip_questions(story)
            left, index = _compress(video[None], view.grid, compressor)
            slots, prefix = video.shape[0] * video.shape[1], step.prefix.shape[1]
            right = _right(
                step,
                left,
                questions,
                chat,
                lambda text, index=index, slots=slots, prefix=prefix: _positions(index, slots, prefix, text),
            )
            for question, correct in zip(questions, right, strict=True):
                add(tally, question.task, correct)
    return tally


def shares(tally: Tally) -> dict[str, float]:
    """Share of right answers of each task, rounded to 4 digits, and "mean" of the tasks."""
    by_task = {task: round(right / asked, 4) for task, (right, asked) in sorted(tally.items())}
    return by_task | {"mean": round(sum(by_task.values()) / len(by_task), 4)}
