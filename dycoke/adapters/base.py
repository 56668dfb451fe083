"""What every adapter shares: checking a plan against what it can do, running a compressor, following the requests."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dycoke.report import Recorder
from dycoke.types import Compressed, Compressor, Plan, VisualTokens


class Adapter(Protocol):
    """Knows one model family. `install` puts a plan on the model and pushes what undoes it on `undo`."""

    def install(self, plan: Plan, recorder: Recorder, undo: ExitStack) -> None: ...


class StageOne:
    """Base of the adapters: serves the stage before the language model. Holds its model weakly.

    A request is a prefill and the decode steps on the cache that prefill filled; a model answers one at a time, so
    threads must take turns. Subclasses hook the model in `hook`
    and may rewrite what its language model reads in `prefill_inputs` and `decode_inputs`.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    compressor: Compressor
    recorder: Recorder

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._cache: weakref.ref | None = None
        self._decoding = False

    def install(self, plan: Plan, recorder: Recorder, undo: ExitStack) -> None:
        """Raises ValueError if the plan asks for a stage or an input this adapter does not serve."""
        family = type(self._model()).__name__
        for stage in ("inside", "decode"):
            if getattr(plan, stage) is not None:
                raise ValueError(f"{family}: this plan has a stage {stage!r}; its adapter serves: before")
        if plan.before is None:
            raise ValueError("empty plan: use build('full') to run a model with nothing removed")
        missing = plan.before.needs - self.provides
        if missing:
            raise ValueError(
                f"{family}: {type(plan.before).__name__} needs {', '.join(sorted(missing))}; "
                f"its adapter provides: {', '.join(sorted(self.provides)) or 'embeds only'}"
            )
        if plan.before.positions == "original" and not plan.before.raster:
            raise ValueError(f"{plan.before!r}: positions='original' needs tokens in raster order")
        self.compressor, self.recorder = plan.before, recorder
        self.hook(self._model(), undo)

    def __reduce_ex__(self, protocol: int) -> Any:
        raise TypeError("a model that carries a method cannot be copied or pickled; remove the method first")

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        """Install the hooks of the family, each with its way back on `undo`."""
        raise AssertionError(f"{type(self).__name__} hooks nothing")

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments the language model gets in prefill."""
        return kwargs

    def decode_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments the language model gets in a decode step."""
        return kwargs

    def compress(self, frames: Tensor, grid: tuple[int, int]) -> Compressed:
        """Run the compressor on one video [T, N, D] and count it.

        Raises ValueError if the number of tokens is not the one it announced.
        """
        self.recorder.start("compress")
        kept = self.compressor.compress(VisualTokens(frames, grid))
        self.recorder.stop("compress")
        expected = self.compressor.count(*frames.shape[:2])
        if len(kept.index) != len(kept.embeds) or (expected is not None and len(kept.index) != expected):
            raise ValueError(
                f"{type(self.compressor).__name__} returned {len(kept.embeds)} tokens and {len(kept.index)} slots "
                f"for {frames.shape[0]} frames of {frames.shape[1]} tokens; expected {expected}"
            )
        self.recorder.video(frames.shape[0], frames.shape[0] * frames.shape[1], len(kept.index))
        return kept

    def time_vision(self, tower: nn.Module, projector: nn.Module, undo: ExitStack) -> None:
        """Stage "vision": from the tower's input to the projector's output."""
        undo.callback(tower.register_forward_pre_hook(lambda *_: self.recorder.start("vision")).remove)
        undo.callback(projector.register_forward_hook(lambda *_: self.recorder.stop("vision")).remove)

    def follow(self, language_model: nn.Module, undo: ExitStack) -> None:
        """Tell prefill from decoding at the language model, rewrite its inputs and time it."""
        before = language_model.register_forward_pre_hook(self._before, with_kwargs=True)
        undo.callback(before.remove)
        undo.callback(language_model.register_forward_hook(self._after, with_kwargs=True).remove)

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        # Identity of the cache, not its length: reading a static cache's length would wait for the device.
        cache = kwargs.get("past_key_values")
        self._decoding = cache is not None and self._cache is not None and self._cache() is cache
        if self._decoding:
            return args, self.decode_inputs(kwargs)
        try:
            kwargs = self.prefill_inputs(kwargs)
        except BaseException:
            self.recorder.discard()  # or the next request would carry this one's marks
            raise
        self.recorder.start("prefill")
        return args, kwargs

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if self._decoding:
            self.recorder.decoded()
            return
        cache = output.past_key_values
        self._cache = None if cache is None else weakref.ref(cache)
        rows, length = output.last_hidden_state.shape[:2]
        real = real_tokens(kwargs.get("attention_mask"), length)
        self.recorder.prefilled(rows * length if real is None else real, rows)


def real_tokens(mask: Tensor | dict[str, Tensor] | None, length: int) -> Tensor | None:
    """Which of the last call's `length` slots are no padding: bool [B, length], or None if nothing says so.

    mask: what a language model of transformers accepts: None, 2-D [B, S] (1 = real), 4-D [B, 1, S, keys] (bool or
    additive) or a dict of those, as a static cache brings. The last query of a 4-D mask sees exactly the real keys.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.ndim == 4:
        last = mask[:, 0, -1, :length]
        return last if last.dtype == torch.bool else last == 0
    return mask[:, :length].bool()
