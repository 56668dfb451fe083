"""Answering lmms-eval's requests with a method on the model: in batches, each sample recorded, each failure named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dycoke.attach import apply, attached, remove
from dycoke.eval.arguments import Arguments
from dycoke.eval.placing import Place
from dycoke.eval.samples import Key, Samples, cost_of, prompt_hash
from dycoke.types import Method, Plan


class SampleFailed(SystemExit):
    """A sample that could not be answered, named.

    It ends the process with code 1 and its message: lmms-eval logs an Exception and exits as if all were well.
    """


@dataclass(frozen=True)
class Asked:
    """One request: task and doc_id name the sample, prompt is a hash of what is asked."""

    task: str
    doc_id: int
    context: str
    generation: Mapping[str, Any]
    prompt: str
    request: Any

    @classmethod
    def of(cls, request: Any) -> Asked:
        context, generation, _, doc_id, task, _ = request.args
        generation = dict(generation)
        return cls(task, int(doc_id), context, generation, prompt_hash(context, generation), request)

    @property
    def key(self) -> Key:
        return self.task, self.doc_id, self.prompt

    def fresh(self) -> Any:
        """The request with settings of its own, which the built-in models write into."""
        context, _, *rest = self.request.args
        return replace(self.request, arguments=(context, dict(self.generation), *rest))

    def visuals(self, data: Mapping[str, Any]) -> list[Any]:
        """What the task shows with the question: paths of videos, or pictures."""
        _, _, doc_to_visual, doc_id, task, split = self.request.args
        return doc_to_visual(data[task][split][doc_id]) or []


@dataclass(frozen=True)
class Generated:
    """new [B, n] int64: generated ids without the prompts; ends: at which an answer ends.

    A row that ended before the longest one, by such an id or by a text, is filled up with pad.
    """

    new: Tensor
    ends: frozenset[int]
    pad: int

    def lengths(self) -> list[int]:
        """How many ids of each row were generated, its end among them."""
        return [self._length(row) for row in self.new.tolist()]

    def _length(self, row: list[int]) -> int:
        end = next((place + 1 for place, token in enumerate(row) if token in self.ends), None)
        if end is not None or len(self.new) == 1:
            return end or len(row)
        return max((place + 1 for place, token in enumerate(row) if token != self.pad), default=0)


class Answering:
    """In front of a model class of lmms-eval: `generate_until` with a method on the model.

    The class it is mixed into has `clip(visuals)`, the frames [T, H, W, 3] uint8 of the paths a task shows or None, and
    `generate(clips, asked) -> Generated`. What gives no clip, such as pictures, goes to the built-in class one by one,
    with the method on.
    """

    samples: Samples | None = None  # None: nothing of ours was asked for, and the built-in model answers alone
    replicated = False  # whether one model is sharded over all processes, which then answer every sample together
    stays = False  # whether the model is kept behind a run, for another one
    _plan: Plan

    def clean(self) -> None:
        """Give the model's memory back behind a run, as lmms-eval asks, unless the model is to stay."""
        if not self.stays:
            super().clean()

    def take_place(self, where: Place, arguments: Arguments) -> Samples:
        """Note where the model goes and how it is asked; what it answers until `use` says otherwise."""
        self._device, self.device_map, self.accelerator = where.device, where.device_map, where.accelerator
        self._rank, self._world_size = where.share
        self.replicated = where.replicated
        self.batch_size_per_gpu = arguments.batch_size
        writes = where.accelerator.is_main_process or not where.replicated
        return Samples(arguments.samples_of(*where.share) if writes else None)

    @property
    def together(self) -> dict[str, Any]:
        """Arguments of `generate` that keep processes which share one model in step."""
        return {"synced_gpus": True} if self.replicated else {}

    def use(self, method: Method | Plan, samples: Samples) -> None:
        """Put a method on the model, instead of the one it carries, and record what follows in `samples`."""
        self.leave()
        apply(self.model, method)
        self._plan = method if isinstance(method, Plan) else method.plan()
        self.samples = samples

    def leave(self) -> None:
        """Take the method off the model, if it carries one."""
        if self.samples is not None:
            remove(self.model)
            self.samples = None

    def generate_until(self, requests: list[Any]) -> list[str]:
        """An answer for each request, in their order.

        A request that was answered before, in this run or an earlier attempt, is not asked again; where answers are
        sampled, equal requests are told apart. Raises SampleFailed, naming the sample that could not be answered.
        """
        if self.samples is None:
            return super().generate_until(requests)
        asked = _told_apart([Asked.of(request) for request in requests])
        self.samples.asked |= {each.key for each in asked}
        batches = self._batches(asked)
        with tqdm(total=len(asked), disable=self.rank != 0, desc="answering") as progress:
            for batch in batches:
                if any(each.key not in self.samples.answers for each in batch):
                    self._answer(batch)
                progress.update(len(batch))
        return [self.samples.answers[each.key] for each in asked]

    def _batches(self, asked: Sequence[Asked]) -> list[list[Asked]]:
        """Requests generated alike, longest first, as many together as the batch size says.

        Which ones stand together depends on the requests alone, not on what was answered before, so that a run that
        was interrupted goes on as it would have.
        """
        unique = {each.key: each for each in asked}.values()
        groups: dict[str, list[Asked]] = {}
        for each in unique:
            groups.setdefault(repr(sorted(each.generation.items())), []).append(each)
        size = self.batch_size
        batches = []
        for group in groups.values():
            group.sort(key=lambda each: (-len(self.tok_encode(each.context)), each.context, each.key))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _answer(self, batch: list[Asked]) -> None:
        shown = []
        for each in batch:
            with _named([each]):
                shown.append(each.visuals(self.task_dict))  # not timed: a task may make or fetch its videos here
        start = time.perf_counter()
        clips = []
        for each, visuals in zip(batch, shown, strict=True):
            with _named([each]):
                clips.append(self.clip(visuals) if visuals and isinstance(visuals[0], str) else None)
        loaded = time.perf_counter()
        if any(clip is None for clip in clips):
            videos = [(each, clip) for each, clip in zip(batch, clips, strict=True) if clip is not None]
            for each in (each for each, clip in zip(batch, clips, strict=True) if clip is None):
                began = time.perf_counter()
                with _named([each]):
                    self._record([each], [self.answer_alone(each)], None, began, began)
            batch, clips = [each for each, _ in videos], [clip for _, clip in videos]
        if batch:
            with _named(batch), torch.inference_mode():
                generated = self.generate(clips, batch)
                texts = self.tokenizer.batch_decode(generated.new, skip_special_tokens=True)
                self._record(batch, [text.strip() for text in texts], generated.lengths(), start, loaded)

    def answer_alone(self, asked: Asked) -> str:
        """What the built-in class answers."""
        return super().generate_until([asked.fresh()])[0]

    def _record(self, batch: list[Asked], texts: list[str], new: list[int] | None, start: float, loaded: float) -> None:
        """new: generated ids of each; None for one request, which took a step for each but the first of them."""
        report = attached(self.model).report  # waits for the device
        count = len(batch)
        if new is None:
            beams = batch[0].generation.get("num_beams") or 1
            new = [report.stages["decode"].tokens // beams + 1]
        load_ms, total_ms = (1e3 * (end - start) / count for end in (loaded, time.perf_counter()))
        for row, (asked, text) in enumerate(zip(batch, texts, strict=True)):
            cost = cost_of(report, self._plan, row, count, load_ms, total_ms)
            head = {"task": asked.task, "doc_id": asked.doc_id, "prompt": asked.prompt, "answer": text}
            self.samples.add({**head, "new_tokens": new[row], **cost})


def _told_apart(asked: Sequence[Asked]) -> list[Asked]:
    """Requests whose answers are sampled, each with a prompt hash of its own where several are equal."""
    found, seen = [], Counter()
    for each in asked:
        sampled = each.generation.get("do_sample") or (each.generation.get("temperature") or 0) > 0
        if sampled and seen[each.key]:
            found.append(replace(each, prompt=f"{each.prompt}-{seen[each.key]}"))
        else:
            found.append(each)
        seen[each.key] += 1
    return found


@contextmanager
def _named(batch: Sequence[Asked]) -> Iterator[None]:
    """Give whatever goes wrong the names of the samples it goes wrong at, in one line.

    Tasks end the process for a missing video.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SampleFailed):
            raise
        kind = "" if isinstance(error, ValueError | OSError | SystemExit) else f"{type(error).__name__}: "
        said = " ".join(str(error).split())
        raise SampleFailed(f"{_names(batch)}: {kind}{said}") from error


def _names(batch: Sequence[Asked]) -> str:
    """A batch may hold samples of several tasks."""
    docs: dict[str, list[str]] = {}
    for each in batch:
        docs.setdefault(each.task, []).append(str(each.doc_id))
    return "; ".join(f"task {task}, doc_id {', '.join(ids)}" for task, ids in docs.items())
