"""Adapter of a bare language model of transformers, fed with embeddings a user has put together."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.bases import Before
from dycoke.families.base import FamilyAdapter, drops_tokens
from dycoke.stages.arguments import expand_rows


class LanguageModelAdapter(FamilyAdapter):
    """Qwen2 and Llama language models, with or without their head. The user names the visual slots of a prompt."""

    def check(self, compressor: Before, visual: Tensor | None) -> None:
        """Raises ValueError without a mask [B, S] bool, or for a compressor that drops tokens: here are no frames."""
        family = type(self._model()).__name__
        if not isinstance(visual, Tensor) or visual.dtype != torch.bool or visual.ndim != 2:
            got = f"{tuple(visual.shape)} {visual.dtype}" if isinstance(visual, Tensor) else repr(visual)
            raise ValueError(f"visual={got}: {family} needs a bool mask [B, S] of the visual slots of its prompts")
        if drops_tokens(compressor):
            raise ValueError(
                f"{family}: this plan has a stage 'before' that drops tokens ({compressor!r}), and a bare language "
                "model has no frames to drop them from; its adapter serves: decode, as in "
                "Plan(decode=build('dycoke').plan().decode)"
            )
        self._mask = visual

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        self.follow(self.language_model(model), undo)

    def language_model(self, model: nn.Module) -> nn.Module:
        return model.model if hasattr(model, "lm_head") else model

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        return expand_rows(self._mask, shape)


ADAPTER = LanguageModelAdapter
