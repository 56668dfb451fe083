"""Answer to one question with one method attached: its text as it is generated, and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from dycoke.attach import attach
from dycoke.families.chat import Chat, size_of
from dycoke.families.sizes import kept_tokens
from dycoke.report import Report
from dycoke.types import Method, Plan
from llava.context import too_long

WARM_UP_TOKENS = 2
_INCOMPLETE = "\ufffd"  # what a tokenizer decodes part of a character to


@dataclass(frozen=True)
class Answer:
    """Text of an answer, and what it cost. cut: whether it was not over when max_new_tokens were generated."""

    text: str
    report: Report
    cut: bool = False


def check_question(question: str, placeholders: tuple[str, ...] = ()) -> None:
    """Raise ValueError for an empty question, or one with a placeholder of its own (`ask` puts the video in)."""
    if not question.strip():
        raise ValueError("the question is empty")
    for placeholder in placeholders:
        if placeholder in question:
            raise ValueError(f"the question contains {placeholder}: a prompt has exactly one, and ask writes it itself")


def check_new_tokens(count: int) -> None:
    """Raise ValueError unless at least one token may be generated."""
    if count < 1:
        raise ValueError(f"max_new_tokens={count}: expected at least 1")


def answer(
    chat: Chat,
    method: Method | Plan,
    request: dict[str, Any],
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer greedily with `method` attached for the length of the call; on_text gets the pieces as they come.

    Raises ValueError for max_new_tokens below 1, a prompt longer than the model reads, and what attaching and the
    method raise.
    """
    check_new_tokens(max_new_tokens)
    pad = chat.tokenizer.pad_token_id
    with attach(chat.model, method) as run, torch.inference_mode():
        streamer = _Pieces(chat.tokenizer, on_text)
        chat.model.generate(
            **request,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=chat.tokenizer.eos_token_id if pad is None else pad,
            streamer=streamer,
        )
        ends = request.get("eos_token_id", chat.model.generation_config.eos_token_id)
        return Answer(streamer.text.strip(), run.report, streamer.is_cut(max_new_tokens, ends))


def warm_up(chat: Chat, method: Method, request: dict[str, Any]) -> None:
    """Generate a short answer that is not measured, because first calls compile kernels and allocate memory."""
    answer(chat, method, request, WARM_UP_TOKENS)


def check_length(chat: Chat, method: Method | Plan, request: dict[str, Any], frames: int) -> None:
    """Raise ValueError if the prompt cannot fit in the model's context, before any of it is computed.

    Newlines between visual tokens are not counted here; what they add is found when the prompt has been packed.
    """
    tokens = chat.text_tokens(request) + fewest_tokens(method, frames, chat.per_frame)
    if tokens >= chat.context:  # not a token would be left for the answer
        raise too_long(tokens, chat.context)


def check_frames(name: str, method: Method | Plan, frames: int) -> None:
    """Raise ValueError if so many frames cannot fit in a checkpoint's context, by its config.json alone.

    name: as for `load_chat`, which this raises what it raises of the config.
    """
    size = size_of(name)
    tokens = fewest_tokens(method, frames, size.per_frame)
    if tokens >= size.context:
        raise too_long(tokens, size.context)


def fewest_tokens(method: Method | Plan, frames: int, per_frame: int) -> int:
    """Visual tokens that `frames` frames of `per_frame` have at least when they reach the language model.

    Where that depends on what they show, one per frame is assumed.
    """
    kept = kept_tokens(method if isinstance(method, Plan) else method.plan(), frames, per_frame)
    return frames if kept is None else kept


class _Pieces(BaseStreamer):
    """Streamer that decodes tokens as they come, in the thread of `generate`, so that its errors reach the caller."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._ids: list[int] | None = None  # None until the prompt, which `generate` hands over first, has passed
        self.text = ""

    def put(self, value: Tensor) -> None:
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        text = self._decode()
        if not text.endswith(_INCOMPLETE):  # the rest of the character is in the next token
            self._show(text)

    def end(self) -> None:
        self._show(self._decode())

    def is_cut(self, max_new_tokens: int, ends: int | list[int] | None) -> bool:
        """Whether so many tokens came and the last of them does not end an answer."""
        ends = ends if isinstance(ends, list) else [ends]
        return len(self._ids or ()) >= max_new_tokens and self._ids[-1] not in ends

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _show(self, text: str) -> None:
        piece, self.text = text[len(self.text) :], text
        if piece and self._on_text is not None:
            self._on_text(piece)
