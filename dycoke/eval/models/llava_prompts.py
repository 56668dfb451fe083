"""Prompts and batches of the `llava` models, as lmms-eval's built-in adapters write them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.mm_utils import tokenizer_image_token


def conversation(template: str) -> Conversation:
    """A fresh conversation. Raises ValueError for a template there is none of."""
    if template not in conv_templates:
        raise ValueError(f"conv_template={template!r}: expected one of {', '.join(conv_templates)}")
    return copy.deepcopy(conv_templates[template])


def write_prompt(template: str, question: str) -> str:
    """The prompt of a question; one that is a JSON list of turns becomes those turns."""
    chat = conversation(template)
    turns = _turns(question)
    for number, turn in enumerate(turns):
        chat.append_message(chat.roles[number % 2], turn)
    chat.append_message(chat.roles[1], None)
    return chat.get_prompt()


def stop_text(template: str) -> str:
    """The text behind which a model of this template says no more."""
    chat = conversation(template)
    return chat.sep2 if chat.sep_style == SeparatorStyle.TWO else chat.sep


def batch_ids(prompts: Sequence[str], tokenizer: Any, pad: int) -> tuple[Tensor, Tensor]:
    """ids and mask [B, L] int64 of prompts with <image> placeholders, padded on the left."""
    rows = [tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt") for prompt in prompts]
    ones = [torch.ones_like(row) for row in rows]
    pad_rows = torch.nn.utils.rnn.pad_sequence
    ids = pad_rows(rows, batch_first=True, padding_value=pad, padding_side="left")
    return ids, pad_rows(ones, batch_first=True, padding_value=0, padding_side="left")


def _turns(question: str) -> list[str]:
    """One turn, or those of a text that is a JSON list of {"value": text}."""
    try:
        content = json.loads(question)
    except ValueError:
        return [question]
    if not (
        isinstance(content, list) and content and all(isinstance(each, dict) and "value" in each for each in content)
    ):
        return [question]  # a number or a text is JSON too
    if len(content) % 2 == 0:
        raise ValueError(f"a conversation of {len(content)} turns: expected the last one to be the user's")
    return [each["value"] for each in content]
