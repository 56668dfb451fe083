"""What every adapter shares: checking a plan against what it can do, running a compressor, following the requests."""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from dycoke.bases import Before
from dycoke.fitting import frame_faults, order_faults, refuse
from dycoke.report import Recorder
from dycoke.stages.arguments import (
    CACHE_NAMES,
    Uncompiled,
    refuse_full_length,
    renamed,
    shape_of,
    tokens_of,
)
from dycoke.stages.masks import packed_samples, read_mask, refuse_own_mask, refuse_packed, seen_slots
from dycoke.stages.tower import TowerProbe, probe_for
from dycoke.turns import Attached, OfThread
from dycoke.types import Compressed, Plan, VisualTokens

if TYPE_CHECKING:
    from dycoke.kv_cache.sink import MakeSink
    from dycoke.stages.decode import DecodeStage
    from dycoke.stages.inside_stage import InsideStage


_numbers = itertools.count()
_FRAMES, _PER_FRAME = 8, 16  # any size on which a compressor shows whether it drops tokens
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


def drops_tokens(compressor: Before) -> bool:
    """Whether a compressor leaves fewer tokens than it gets, or may: where their number depends on the video."""
    return compressor.count(_FRAMES, _PER_FRAME) != _FRAMES * _PER_FRAME


class FamilyAdapter(Attached):
    """Base of the adapters: serves the stages before the language model, inside it and while decoding.

    Holds its model weakly. A request is a prefill and the decode steps on the cache that prefill filled, which tells
    them from those of other requests; what a prefill is told on its way is its thread's own. Subclasses hook the model
    in `hook`, may rewrite what its language model reads in `prefill_inputs` and `decode_inputs`, and say in `visual`
    which slots are visual tokens.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    knows_frames: ClassVar[bool] = False
    knows_newlines: ClassVar[bool] = False
    compressor: Before
    recorder: Recorder

    _noted: Any = OfThread()  # by the family, in the prefill under way or that of the step under way
    _step: Prefilled | None = OfThread()  # of the call under way, where it is a step
    _read: int | Tensor = OfThread(0)
    _elsewhere: tuple[DecodeStage | None, MakeSink | None] | None = (
        OfThread()
    )  # what prefills fill, within `prefilling`

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._of_thread, self._number = threading.local(), next(_numbers)
        self._stage: DecodeStage | None = None
        self._inside: InsideStage | None = None
        self._probe: TowerProbe | None = None

    def install(self, plan: Plan, recorder: Recorder, undo: ExitStack, visual: Tensor | None, trace: bool) -> None:
        """Raises ValueError if the plan asks for a stage or an input this adapter does not serve."""
        model = self._model()
        if plan == Plan():
            raise ValueError("empty plan: use build('full') to run a model with nothing removed")
        if trace and plan.decode is None and not plan.pruners:
            raise ValueError("trace=True: this plan has no stage 'decode' or 'inside' to trace")
        self.compressor, self.recorder = plan.compressor, recorder
        self.check(self.compressor, visual)
        self._check_newlines(plan)
        if plan.decode is not None or plan.pruners:
            from dycoke.stages.decode import DecodeStage  # transformers only where it is needed

            self._stage = DecodeStage(self.language_model(model), plan.decode, plan.pruners, trace)
            self._stage.install(undo)
        if plan.pruners:
            from dycoke.stages.inside_stage import InsideStage

            self._inside = InsideStage(self.language_model(model), plan.pruners, self._stage.flat_masks, trace)
            self._inside.install(undo)
            undo.callback(model.register_forward_pre_hook(refuse_full_length, with_kwargs=True).remove)
        self.hook(model, undo)

    def decode_stage(self, plan: Plan) -> DecodeStage:
        """The stage through which a prefill of this plan fills a sink, also where the plan prunes no cache.

        Raises ValueError if the language model's attention is not one that a stage while decoding knows.
        """
        from dycoke.stages.decode import DecodeStage

        return self._stage or DecodeStage(self.language_model(self._model()), plan.decode)

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

    def check(self, compressor: Before, visual: Tensor | None) -> None:
        """Raises ValueError for a compressor this adapter cannot run, or a mask it finds by itself."""
        family = type(self._model()).__name__
        if visual is not None:
            raise ValueError(f"visual=: {family} knows its visual tokens; the mask is for bare language models")
        missing = compressor.needs - self.provides
        if missing:
            raise ValueError(
                f"{family}: {type(compressor).__name__} needs {', '.join(sorted(missing))}; "
                f"its adapter provides: {', '.join(sorted(self.provides)) or 'embeds only'}"
            )
        refuse(order_faults(compressor))

    def _check_newlines(self, plan: Plan) -> None:
        if not self.knows_newlines and any(each.newlines_compete for each in plan.pruners):
            raise ValueError(
                f"newlines='published': {type(self._model()).__name__} does not tell newlines from text; accepted: "
                "newlines='kept', or a video model"
            )

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        """Install the hooks of the family, each with its way back on `undo`."""
        raise AssertionError(f"{type(self).__name__} hooks nothing")

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

    def compress(
        self, frames: Tensor, grid: tuple[int, int], rows: slice | None = None, query: Tensor | None = None
    ) -> Compressed:
        """Run the compressor on one video [T, N, D], with what it needs beside it, and count it.

        rows of the tower call that its frames were, None where no probe is installed; query [Q, D] the embedded
        question, passed on if it is needed.
        Raises ValueError for a video too short for it, frames whose tower call is not remembered, and if the number
        of tokens is not the one it announced.
        """
        self.recorder.start("compress")
        refuse(frame_faults(self.compressor, frames.shape[0]))
        video = {} if self._probe is None else self._probe.read(rows, grid)._asdict()
        video["query"] = query if "query" in self.compressor.needs else None
        # Parts of a model may lie on devices of their own.
        video = {name: None if value is None else value.to(frames.device) for name, value in video.items()}
        kept = self.compressor.compress(VisualTokens(frames, grid, **video))
        self.recorder.stop("compress")
        expected = self.compressor.count(*frames.shape[:2])
        if len(kept.index) != len(kept.embeds) or (expected is not None and len(kept.index) != expected):
            raise ValueError(
                f"{type(self.compressor).__name__} returned {len(kept.embeds)} tokens and {len(kept.index)} slots "
                f"for {frames.shape[0]} frames of {frames.shape[1]} tokens; expected {expected}"
            )
        self.recorder.video(frames.shape[0], frames.shape[0] * frames.shape[1], len(kept.index))
        return kept

    def probe_tower(self, tower: nn.Module | None, depth: int, undo: ExitStack) -> None:
        """Hook the vision tower if the compressor needs it. Raises what `probe_for` raises."""
        self._probe = probe_for(self.compressor, tower, depth)
        if self._probe is not None:
            self._probe.install(undo)

    def time_vision(self, tower: nn.Module, projector: nn.Module, undo: ExitStack) -> None:
        """Stage "vision": from the tower's input to the projector's output."""
        undo.callback(tower.register_forward_pre_hook(lambda *_: self.recorder.start("vision")).remove)
        undo.callback(projector.register_forward_hook(lambda *_: self.recorder.stop("vision")).remove)

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
        use, entered, shape = None, [], shape_of(kwargs)
        real = seen_slots(kwargs.get("attention_mask"), shape)
        self._read = shape[0] * shape[1] if real is None else real
        self._check_length(real, shape[1])
        stage, make = self._elsewhere or (self._stage, None)
        cached = stage is not None and stage.has_cache(kwargs)
        if cached or self._inside is not None:
            real, own = read_mask(kwargs.get("attention_mask"), shape)
            if self._inside is not None:
                self._check_inside(kwargs, own)
            visual, request = self.visual(kwargs, shape), None
            if cached:
                kwargs, request = stage.prefill(kwargs, shape, tokens_of(kwargs).device, real, visual, own, make)
                use = request.use if self._stage is not None else None
            if self._inside is not None and visual is not None:
                places, newlines = self._known_places(visual), self.newlines()
                kwargs, entered = self._inside.prefill(kwargs, visual, real, places, newlines, request)
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
