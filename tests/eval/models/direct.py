"""Answers computed without lmms-eval: prompt, pixels and `generate` by hand, with a method attached around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dycoke
from dycoke.video.frames import read_frames
from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from tests.eval.models.asking import GREEDY, Doc
from tests.eval.models.conftest import CHANGED, FRAMES, Models


class Direct:
    """A model id's tiny checkpoint in float32. asked: ids generated for, and report on, each question so far."""

    def __init__(self, models: Models) -> None:
        self.tokenizer, self.model, self.processor, _ = load_pretrained_model(
            str(models.checkpoint),
            None,
            Path(models.checkpoint).name,
            device_map="cpu",
            torch_dtype="float32",
            attn_implementation="sdpa",
            overwrite_config=CHANGED[models.name],
        )
        self.new: list[list[int]] = []
        self.reports: list[Any] = []

    def answer(self, docs: Sequence[Doc], method: Any, count: int = FRAMES, **generation: Any) -> list[str]:
        """One question after the other, each with the method attached for it alone."""
        return [self._answer(doc, method, count, generation) for doc in docs]

    def _answer(self, doc: Doc, method: Any, count: int, generation: dict[str, Any]) -> str:
        shown = self._visual(doc, count)
        placeholders = " ".join(["<image>"] * len(shown.get("images", ())))
        chat = conv_templates["qwen_1_5"].copy()
        chat.append_message(chat.roles[0], f"{placeholders}\n{doc.question}" if placeholders else doc.question)
        chat.append_message(chat.roles[1], None)
        ids = tokenizer_image_token(chat.get_prompt(), self.tokenizer, return_tensors="pt")[None]
        settings = {"max_new_tokens": GREEDY["max_new_tokens"], "do_sample": False} | generation
        plan = method if isinstance(method, dycoke.Plan) else method.plan()
        with dycoke.attach(self.model, method, trace=plan.decode is not None) as run:
            new = self.model.generate(ids, attention_mask=torch.ones_like(ids), **shown, **settings)
            self.reports.append(run.report)
        self.new.append(new[0].tolist())
        return self.tokenizer.decode(new[0], skip_special_tokens=True).strip()

    def _visual(self, doc: Doc, count: int) -> dict[str, Any]:
        if not doc.visuals:
            return {}
        if isinstance(doc.visuals[0], str):
            frames: np.ndarray = read_frames(doc.visuals[0], count)
            pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
            return {"images": [pixels], "modalities": ["video"]}
        self.model.config.image_aspect_ratio = "pad" if len(doc.visuals) > 1 else "anyres_max_9"
        pixels = process_images(list(doc.visuals), self.processor, self.model.config)
        return {"images": pixels, "image_sizes": [picture.size for picture in doc.visuals]}
