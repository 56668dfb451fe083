"""One question, one method: generate with it attached, hand the text out as it comes, and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from dycoke.ask.chat import Chat
from dycoke.attach import attach
from dycoke.report import Report
from dycoke.types import Method

WARM_UP_TOKENS = 2


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it cost."""

    text: str
    report: Report


def check_question(question: str, placeholders: tuple[str, ...] = ()) -> None:
    """Raise ValueError for an empty question, or one with a placeholder of its own (`ask` puts the video in)."""
    if not question.strip():
        raise ValueError("the question is empty")
    for placeholder in placeholders:
        if placeholder in question:
            raise ValueError(f"the question contains {placeholder}: a prompt has exactly one, and ask writes it itself")


def answer(
    chat: Chat,
    method: Method,
    request: dict[str, Any],
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer greedily with `method` attached for the length of the call; on_text gets the pieces as they come.

    Raises ValueError for max_new_tokens below 1, and what attaching and the method raise.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: expected at least 1")
    streamer = _Pieces(chat.tokenizer, on_text)
    pad = chat.tokenizer.pad_token_id
    with attach(chat.model, method) as run, torch.inference_mode():
        chat.model.generate(
            **request,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=chat.tokenizer.eos_token_id if pad is None else pad,
            streamer=streamer,
        )
        return Answer("".join(streamer.pieces).strip(), run.report)


def warm_up(chat: Chat, method: Method, request: dict[str, Any]) -> None:
    """Run a short answer whose times count for nothing: first calls compile kernels and allocate memory."""
    answer(chat, method, request, WARM_UP_TOKENS)


class _Pieces(TextStreamer):
    """Decodes token by token in the thread of `generate`, so that what fails there fails in the caller."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None] | None) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces: list[str] = []
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.append(text)
        if text and self._on_text is not None:
            self._on_text(text)
