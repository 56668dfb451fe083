"""Following the requests of a model at its language model: which call is a prefill, and which prefill a step goes on.

The same for every family, which is asked where its visual tokens stand and may rewrite what its language model reads.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dycoke.report import Recorder
from dycoke.report.usage import Entered
from dycoke.stages.arguments import (
    CACHE_NAMES,
    Uncompiled,
    renamed,
    shape_of,
    tokens_of,
)
from dycoke.stages.masks import packed_samples, read_mask, refuse_own_mask, refuse_packed, seen_slots
from dycoke.turns import Attached, OfThread

if TYPE_CHECKING:
    from dycoke.kv_cache.request import DecodeRequest
    from dycoke.kv_cache.sink import MakeSink
    from dycoke.stages.decode import DecodeStage
    from dycoke.stages.inside import InsideStage

_numbers = itertools.count()
_MARK = "_dycoke_prefilled"  # attribute of a cache: a copy of the cache has it too


@dataclass(frozen=True)
class Prefilled:
    """What the decode steps on a cache need of its prefill.

    adapter: the number of the adapter that saw it; request: whose marks theirs are; cache: the one it filled; noted: by
    the family. A copy of the cache has a copy of what was noted, for its own steps.
    """

    adapter: int
    request: Any
    cache: weakref.ref
    noted: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Prefilled:
        return Prefilled(self.adapter, self.request, self.cache, copy.deepcopy(self.noted, memo))


class Follower(Attached):
    """Follows the requests of one model, which it holds weakly, and runs its stages inside and while decoding.

    A request is a prefill and the decode steps on the cache that prefill filled, which tells them from those of other
    requests; what a prefill is told on its way is its thread's own. Subclasses say in `visual` which slots are visual
    tokens, and may rewrite what the language model reads in `prefill_inputs` and `decode_inputs`.
    """

    knows_frames: ClassVar[bool] = False
    recorder: Recorder

    _noted: OfThread[Any] = OfThread(None)  # by the family, in the prefill under way or that of the step under way
    _step: OfThread[Prefilled | None] = OfThread(None)  # of the call under way, where it is a step
    _read: OfThread[int | Tensor] = OfThread(0)
    # What prefills fill, within `prefilling`.
    _elsewhere: OfThread[tuple[DecodeStage | None, MakeSink | None] | None] = OfThread(None)

    def __init__(self, model: nn.Module) -> None:
        self._model: Callable[[], Any] = weakref.ref(model)
        self._of_thread, self._number = threading.local(), next(_numbers)
        self._stage: DecodeStage | None = None
        self._inside: InsideStage | None = None

    @contextmanager
    def prefilling(self, stage: DecodeStage | None, make: MakeSink | None = None) -> Iterator[None]:
        """Within the context, prefills of this thread fill what `make` gives, through `stage`.

        stage None: they fill the cache of `generate` again, as without any context.
        """
        before, self._elsewhere = self._elsewhere, None if stage is None else (stage, make)
        try:
            yield
        finally:
            self._elsewhere = before

    def language_model(self, model: nn.Module) -> nn.Module:
        """The module whose layers fill a cache."""
        raise AssertionError(f"{type(self).__name__} has no language model")

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        """Visual tokens [B, S] bool of the prefill under way, called once for each; None if it has none."""
        raise AssertionError(f"{type(self).__name__} finds no visual tokens")

    def places(self) -> tuple[Tensor, Tensor, int] | None:
        """Where the tokens of videos stand in the prefill under way, called once for each; None if it has no video.

        video [B, S] int64, the number of a token's video in its row, and slots [B, S] int64, its slot t * N + n in that
        video, both -1 at every other slot; and N, the tokens a frame has before any is dropped.
        """
        return None

    def newlines(self) -> Tensor | None:
        """Newlines [B, S] bool of videos and pictures in the prefill under way, behind `visual`, called once for each.

        None if there is nothing visual; only of an adapter that knows them.
        """
        return None

    def forget(self) -> None:
        """Drop what is known of the visual tokens of a prefill whose cache nobody prunes."""

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments the language model gets in prefill."""
        return kwargs

    def decode_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments the language model gets in a decode step."""
        return kwargs

    def follow(self, language_model: nn.Module, undo: ExitStack) -> None:
        """Tell prefill from decoding at the language model, rewrite its inputs and time it."""
        from llava.context import readable  # transformers only where it is needed

        self._context = readable(language_model.config)
        self._names = list(inspect.signature(language_model.forward).parameters)
        self._cache_name = next(name for name in CACHE_NAMES if name in self._names)
        before = language_model.register_forward_pre_hook(Uncompiled(self._before), with_kwargs=True)
        undo.callback(before.remove)
        undo.callback(language_model.register_forward_hook(self._after, with_kwargs=True).remove)

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        args, kwargs = (), renamed(dict(zip(self._names, args, strict=False)) | kwargs, "past_key_values")
        cache, shape = kwargs.get("past_key_values"), shape_of(kwargs)
        self._step, self._noted = self._prefill_of(cache, shape[1]), None
        if self._step is not None:
            self._noted = self._step.noted
            kwargs = self.decode_inputs(kwargs)
            kwargs = kwargs if self._stage is None else self._stage.step(kwargs, shape)
            return args, renamed(kwargs, self._cache_name)
        try:
            kwargs = self._prefill(self.prefill_inputs(kwargs))
        except BaseException:
            self.recorder.discard()  # or the next request would carry this one's marks
            raise
        return args, renamed(kwargs, self._cache_name)

    def _prefill_of(self, cache: Any, tokens: int) -> Prefilled | None:
        """The prefill whose cache a call goes on with; None for a prefill."""
        told = getattr(cache, _MARK, None)
        if told is None or told.adapter != self._number:
            return None
        if self._stage is not None:  # a copy of the cache shares the entries of the one it was made of
            return told if told.cache() is cache and not self._stage.is_fresh(cache) else None
        length = cache.get_seq_length()  # on the device where the cache is static
        return None if (isinstance(length, int) or tokens > 1) and int(length) == 0 else told

    def _prefill(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        use, shape = None, shape_of(kwargs)
        entered: list[Entered] = []
        real = seen_slots(kwargs.get("attention_mask"), shape)
        self._read = shape[0] * shape[1] if real is None else real
        self._check_length(real, shape[1])
        stage, make = self._elsewhere or (self._stage, None)
        if stage is not None and not stage.has_cache(kwargs):
            stage = None
        if stage is not None or self._inside is not None:
            real, own = read_mask(kwargs.get("attention_mask"), shape)
            if self._inside is not None:
                self._check_inside(kwargs, own)
            visual, request = self.visual(kwargs, shape), None
            if stage is not None:
                kwargs, request = stage.prefill(kwargs, shape, tokens_of(kwargs).device, real, visual, own, make)
                use = request.use if self._stage is not None else None
            if self._inside is not None and visual is not None:
                places, newlines = self._known_places(visual), self.newlines()
                narrowing = cast("DecodeRequest | None", request)  # a sink whose columns can leave
                kwargs, entered = self._inside.prefill(kwargs, visual, real, places, newlines, narrowing)
        elif self._stage is not None:
            self.forget()
        self.recorder.start("prefill")
        self.recorder.pruned(use, entered)
        return kwargs

    def _check_length(self, real: Tensor | None, slots: int) -> None:
        """Raise ValueError for a prompt of more tokens than the model reads; real [B, S] bool or None, S slots.

        Reads the device only where padding might be what is too much.
        """
        if self._context is not None and slots > self._context:
            from llava.context import check_fits

            check_fits(slots if real is None else int(real.sum(1).max()), self._context)

    def _check_inside(self, kwargs: dict[str, Any], own: Tensor | None) -> None:
        """Raise ValueError where slots that leave on the way through the layers are not all of one causal sample."""
        refuse_own_mask(own, "drops tokens inside the model")
        if packed_samples(self.language_model(self._model()), kwargs):
            refuse_packed("drops tokens inside the model")

    def _known_places(self, visual: Tensor) -> tuple[Tensor, Tensor, int] | None:
        """`places`; where the family knows frames and a prompt has none, no slot of visual [B, S] is one of a video."""
        places = self.places()
        if places is None and self.knows_frames:
            nowhere = torch.full(visual.shape, -1, device=visual.device)
            return nowhere, nowhere, 1
        return places

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if self._step is not None:
            if self._stage is not None:
                self._stage.end_step(kwargs)
            self.recorder.decoded(self._step.request)
            return
        parts = output if isinstance(output, tuple) else tuple(output.values())
        given = renamed(kwargs, "past_key_values").get("past_key_values")
        cache = next((part for part in parts if hasattr(part, "get_seq_length")), given)
        request = self.recorder.prefilled(self._read, len(parts[0]))
        if cache is not None:
            setattr(cache, _MARK, Prefilled(self._number, request, weakref.ref(cache), self._noted))
