"""What every adapter shares: checking a plan against what it can do, putting it on, running a compressor."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from dycoke.bases import Before
from dycoke.families.follower import Follower
from dycoke.fitting import frame_faults, order_faults, refuse
from dycoke.report import Recorder
from dycoke.stages.arguments import (
    refuse_full_length,
)
from dycoke.stages.tower import TowerProbe, probe_for
from dycoke.types import Compressed, Plan, VisualTokens

if TYPE_CHECKING:
    from dycoke.stages.decode import DecodeStage


_FRAMES, _PER_FRAME = 8, 16  # any size on which a compressor shows whether it drops tokens


def drops_tokens(compressor: Before) -> bool:
    """Whether a compressor leaves fewer tokens than it gets, or may: where their number depends on the video."""
    return compressor.count(_FRAMES, _PER_FRAME) != _FRAMES * _PER_FRAME


class FamilyAdapter(Follower):
    """Base of the adapters: serves the stages before the language model, inside it and while decoding.

    Subclasses hook the model in `hook`, and answer what a `Follower` asks of its family.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    knows_newlines: ClassVar[bool] = False
    compressor: Before

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
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

            self._stage = stage = DecodeStage(self.language_model(model), plan.decode, plan.pruners, trace)
            stage.install(undo)
        if plan.pruners:
            from dycoke.stages.inside import InsideStage

            self._inside = InsideStage(self.language_model(model), plan.pruners, stage.flat_masks, trace)
            self._inside.install(undo)
            undo.callback(model.register_forward_pre_hook(refuse_full_length, with_kwargs=True).remove)
        self.hook(model, undo)

    def decode_stage(self, plan: Plan) -> DecodeStage:
        """The stage through which a prefill of this plan fills a sink, also where the plan prunes no cache.

        Raises ValueError if the language model's attention is not one that a stage while decoding knows.
        """
        from dycoke.stages.decode import DecodeStage

        return self._stage or DecodeStage(self.language_model(self._model()), plan.decode)

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
