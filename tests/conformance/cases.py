"""Tiny models of every family with a prompt each, and methods that keep everything, for calls that are compared."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM

import dycoke
from tests.support import decode_small
from tests.support.decode_subjects import language_model
from tests.support.subjects import HF_IMAGE, HF_VIDEO, Clip, HFSubject, LlavaSubject

CACHE = "cache" if "cache" in inspect.signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"
METHODS = {"full": {"name": "full"}, "keep_all": {"name": "dynamic_pruning", "layer": 1, "p": 0.0}}
PRUNED = {"inside": {"name": "fastv", "k": 1, "r": 0.5}}
FAMILIES = ("hf_video", "hf_picture", "llava", "qwen2", "llama")
LENGTH = 12  # of a bare model's prompts, whose visual slots are named for it


class Case:
    """A model, and its prompt [1, S] as the arguments of a call; `batch` is one of two rows padded on the left."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.bare, self.hf = family in ("qwen2", "llama"), family.startswith("hf")
        if self.bare:
            self.model = language_model(family)
            ids = torch.randint(5, 90, (2, LENGTH), generator=torch.Generator().manual_seed(1))
            mask = torch.ones_like(ids)
            self.inputs = {"input_ids": ids[:1], "attention_mask": mask[:1]}
            mask = mask.clone()
            mask[1, :3] = 0
            self.batch = {"input_ids": ids, "attention_mask": mask}
            self.visual = torch.zeros(1, LENGTH, dtype=torch.bool)
            self.visual[:, 4:9] = True
            return
        subject = HFSubject() if self.hf else LlavaSubject()
        self.model, clip = subject.model, Clip(None if family == "hf_picture" else 2)
        self.inputs = subject.inputs([[5, 6, clip, 7, 8, 9]])
        self.batch = subject.inputs([[5, 6, clip, 7, 8, 9], [5, clip, 3]])

    @property
    def language_model(self) -> nn.Module:
        if self.hf:
            return self.model.model.language_model
        return self.model.model

    @contextmanager
    def attached(self, method: dict[str, Any] | None, engine: str = "off") -> Iterator[Any]:
        """With a method on the model, None for none."""
        if method is None:
            yield None
            return
        options = {"visual": self.visual} if self.bare else {}
        with dycoke.attach(self.model, dycoke.build(**method), engine=engine, **options) as run:
            yield run

    def forward(self, **options: Any) -> Any:
        return self.model(**self.inputs | options)

    def open(self) -> dict[str, Tensor]:
        """The prompt without its mask, as arguments that any mask of its slots may stand beside."""
        if self.hf or self.bare:
            return {name: value for name, value in self.inputs.items() if name != "attention_mask"}
        inputs = self.inputs
        packed = self.model.prepare_inputs_labels_for_multimodal(
            inputs["input_ids"], None, inputs["attention_mask"], None, None,
            inputs["images"], inputs["modalities"], inputs["image_sizes"],
        )  # fmt: skip
        return {"inputs_embeds": packed[4]}

    def length(self) -> int:
        """Slots of the prompt as the language model reads it untouched."""
        shown = self.open()
        return (shown["input_ids"] if "input_ids" in shown else shown["inputs_embeds"]).shape[1]

    def generate(self, batch: bool = False, **options: Any) -> Any:
        settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        if self.hf:
            settings["suppress_tokens"] = [HF_VIDEO, HF_IMAGE]
        return self.model.generate(**(self.batch if batch else self.inputs) | settings | options)

    def step(self, cache: Any, token: int = 3, count: int = 1, **options: Any) -> Any:
        """A decode step of `count` tokens on a cache."""
        return self.model(input_ids=torch.full((1, count), token), **{CACHE: cache}, **options)


def cache_of(output: Any) -> Any:
    return getattr(output, CACHE)


def small() -> nn.Module:
    """The language model of the other tests of decoding."""
    return decode_small.qwen()
