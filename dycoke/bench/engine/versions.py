"""The versions that are measured side by side: models that share their weights, each with its method or none."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import dycoke
from dycoke.bench.engine.model import Request, share_llava
from dycoke.bench.engine.setting import DYCOKE, HOST, OURS, STATIC_GRAPH, STOCK, STOCK_EAGER, Setting
from dycoke.families.base import FamilyAdapter
from dycoke.report import Recorder, Report

ENGINE = "engine"  # what a report says of a request that our loop decoded


class Watch(FamilyAdapter):
    """Times the stages of a stock model, on which no method is."""

    def put_on(self, undo: ExitStack) -> None:
        model = self._model()
        self.recorder = Recorder("stock", sorted({weight.device for weight in model.parameters()}, key=str))
        self.time_vision(model.model.vision_tower, model.model.multi_modal_projector, undo)
        self.follow(model.model.language_model, undo)


class Subject:
    """A version at work: `generate` answers as a user would let it, `report` tells of the latest answer.

    loop: by what a version of ours decoded latest, None of a stock one.
    """

    def __init__(self, name: str, model: nn.Module, setting: Setting, undo: ExitStack) -> None:
        self.name, self.model, self.loop = name, model, None
        self._setting = setting
        self._run = self._watch = None
        if name in STOCK:
            self._watch = Watch(model)
            return
        if name == HOST:
            method, engine = setting.method(DYCOKE, "host"), "off"
        else:  # without a GPU the engine runs only where it is asked for
            method, engine = setting.method(name), "auto" if torch.cuda.is_available() else "on"
        self._run = undo.enter_context(dycoke.attach(model, method, engine=engine))

    def generate(self, request: Request, tokens: int, **more: Any) -> Tensor:
        """Ids [B, tokens] of the answers. Raises RuntimeError where a prompt has fewer, or our loop did not run.

        more: further arguments of `generate`.
        """
        return self._checked(self._answer(request, tokens, **more), request, tokens)

    def timed(self, request: Request, tokens: int) -> float:
        """Milliseconds from the request to the last token on the host, once the devices are idle."""
        synchronize()
        begin = time.perf_counter()
        out = self._answer(request, tokens).cpu()
        elapsed = (time.perf_counter() - begin) * 1e3
        self._checked(out, request, tokens)
        return elapsed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, answers of a stock version have a report too. Its hooks take their time, if little."""
        with ExitStack() as undo:
            if self._watch is not None:
                self._watch.put_on(undo)
            yield

    @property
    def report(self) -> Report:
        """Report of the latest answer; a stock version has one of answers given while it was watched."""
        return (self._run if self._watch is None else self._watch.recorder).report

    def _answer(self, request: Request, tokens: int, **more: Any) -> Tensor:
        return self.model.generate(**request.inputs, max_new_tokens=tokens, do_sample=False, **more)

    def _checked(self, out: Tensor, request: Request, tokens: int) -> Tensor:
        answer = out[:, request.length :]
        if answer.shape != (request.rows, tokens):
            raise RuntimeError(f"{self.name}: answers {tuple(answer.shape)}; expected {(request.rows, tokens)}")
        if self._run is not None:
            self.loop = self._run.report.loop
            check_loop_kind(self.name, self.loop, self._setting)
        return answer


def check_loop_kind(name: str, loop: str, setting: Setting) -> None:
    """Raise RuntimeError for a version of ours that the stock loop decoded, unless the engine does not serve it."""
    if loop != ENGINE and name != HOST and setting.device_map == "none":
        raise RuntimeError(f"{name}: decoded by {loop!r}, so its time is not that of the engine")


def unserved(setting: Setting) -> dict[str, str]:
    """Versions that are not available where the model lies, with the reason."""
    if setting.device_map == "none":
        return {}
    return {STATIC_GRAPH: "a CUDA graph of one GPU's work, and the model lies on several"}


class Subjects:
    """Versions of one model, opened when first asked for and kept, so that what they captured stays, until `close`.

    skipped: versions that are not available or did not fit, with the reason.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self._model, self._setting = model, setting
        self._open: dict[str, Subject] = {}
        self._undo = ExitStack()
        self.skipped = unserved(setting)

    def __enter__(self) -> Subjects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Subject:
        if name not in self._open:
            attention = "eager" if name == STOCK_EAGER else "sdpa"
            self._open[name] = Subject(name, share_llava(self._model, attention), self._setting, self._undo)
        return self._open[name]

    def named(self, names: Sequence[str]) -> list[Subject]:
        """These versions, in this order, without those that did not fit."""
        return [self[name] for name in names if name not in self.skipped]

    def warm_up(self, request: Request, lengths: Sequence[int], seconds: float) -> None:
        """Answers of these lengths by every version that generates, in turn, at least one of each, for that long."""
        end = time.monotonic() + seconds
        names = [name for name in self._setting.versions if name != STATIC_GRAPH]
        while True:
            for subject in self.named(names):
                for tokens in lengths:
                    self._try(subject, request, tokens)
            if time.monotonic() >= end:
                return

    def _try(self, subject: Subject, request: Request, tokens: int) -> None:
        if subject.name in self.skipped:
            return
        try:
            subject.generate(request, tokens)
        except torch.cuda.OutOfMemoryError as error:
            if subject.name.startswith(OURS):
                raise
            self.skipped[subject.name] = f"out of memory: {' '.join(str(error).split())}"
        if subject.name in self.skipped:
            release()

    def close(self) -> None:
        """Take the methods off and free what the versions held."""
        self._undo.close()
        self._open.clear()
        release()


def synchronize() -> None:
    """Wait until every GPU is idle; nothing without one."""
    for number in range(torch.cuda.device_count()):
        torch.cuda.synchronize(number)


def release() -> None:
    """Give back the memory that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
