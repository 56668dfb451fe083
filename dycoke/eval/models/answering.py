"""Answering lmms-eval's requests with a method on the model: in batches, each sample recorded, each failure named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dycoke.attach import apply, attached, remove
from dycoke.eval.models.arguments import Arguments
from dycoke.eval.models.generation import MAX_NEW_TOKENS
from dycoke.eval.models.place import Place
from dycoke.eval.runs.samples import Key, Samples, cost_of, prompt_hash
from dycoke.eval.runs.specs import AUTO
from dycoke.families.requests import compressor_of, requests_of
from dycoke.offline.answers import Generated
from dycoke.offline.batches import Halving, KVBudget, form
from dycoke.offline.generate import MAX_BATCH
from dycoke.types import Method, Plan
from dycoke.video.frames import reader_of
from dycoke.video.reading import PYAV


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


class Answering:
    """In front of a model class of lmms-eval: `generate_until` with a method on the model.

    The class it is mixed into has `clip(visuals)`, the frames [T, H, W, 3] uint8 of the paths a task shows or None,
    `generate(clips, asked) -> Generated`, and `shell()`, the text of a prompt around an empty question. What gives no
    clip, such as pictures, goes to the built-in class one by one, with the method on.
    """

    samples: Samples | None = None  # None: nothing of ours was asked for, and the built-in model answers alone
    replicated = False  # whether one model is sharded over all processes, which then answer every sample together
    fills = False  # whether a batch has as many rows as a share of the GPU's memory allows
    reader = PYAV  # who reads the frames of `clip`
    stays = False  # whether the model is kept behind a run, for another one
    _plan: Plan

    def clean(self) -> None:
        """Give the model's memory back behind a run, as lmms-eval asks, unless the model is to stay."""
        if not self.stays:
            super().clean()

    def take_place(self, where: Place, arguments: Arguments) -> Samples:
        """Note where the model goes and how it is asked; what it answers until `use` says otherwise.

        Raises ValueError for batches of no fixed size where several processes answer them together.
        """
        self.fills = arguments.batch_size == AUTO
        if self.fills and where.replicated:
            raise ValueError("batch_size='auto': processes that share one model need the same number; give one")
        self._device, self.device_map, self.accelerator = where.device, where.device_map, where.accelerator
        self._rank, self._world_size = where.share
        self.replicated = where.replicated
        self.batch_size_per_gpu = MAX_BATCH if self.fills else arguments.batch_size
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
        self._halve = Halving(len)  # all videos have as many frames, so that rows tell what a batch needs
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
        was interrupted goes on as it would have. With batch_size=auto it depends on the method, the number of frames,
        and the model and the memory of its GPUs besides (`KVBudget.of`), none of which changes within a run; but a
        batch that runs out of memory is answered in halves, and they are not remembered.
        """
        unique = {each.key: each for each in asked}.values()
        groups: dict[str, list[Asked]] = {}
        for each in unique:
            groups.setdefault(repr(sorted(each.generation.items())), []).append(each)
        budget, around = (KVBudget.of(self.model), self._around()) if self.fills else (None, 0)
        batches = []
        for group in groups.values():
            texts = {each.key: len(self.tok_encode(each.context)) for each in group}
            group.sort(key=lambda each: (-texts[each.key], each.context, each.key))
            new = group[0].generation.get("max_new_tokens", MAX_NEW_TOKENS)
            beams = group[0].generation.get("num_beams") or 1
            columns = [(around + texts[each.key] + new) * beams for each in group]
            batches += [group[part] for part in form(columns, budget, self.batch_size)]
        return batches

    def _around(self) -> int:
        """Tokens of a prompt beside its question: the video's behind compression, at most, and the template's."""
        video = requests_of(self.model).video(int(self.max_frames_num), compressor_of(self._plan))
        return video.most + len(self.tok_encode(self.shell()))

    def _answer(self, batch: list[Asked]) -> None:
        shown = []
        for each in batch:
            with _named([each]):
                shown.append(each.visuals(self.task_dict))  # not timed: a task may make or fetch its videos here
        start = time.perf_counter()
        clips, readers = [], {}
        for each, visuals in zip(batch, shown, strict=True):
            with _named([each]):
                clips.append(self.clip(visuals) if visuals and isinstance(visuals[0], str) else None)
                readers[each.key] = None if clips[-1] is None else reader_of(visuals[0], self.reader)
        loaded = time.perf_counter()
        if any(clip is None for clip in clips):
            videos = [(each, clip) for each, clip in zip(batch, clips, strict=True) if clip is not None]
            for each in (each for each, clip in zip(batch, clips, strict=True) if clip is None):
                began = time.perf_counter()
                with _named([each]):
                    self._record([each], [self.answer_alone(each)], None, readers, 0.0, began)
            batch, clips = [each for each, _ in videos], [clip for _, clip in videos]
        if batch:
            load_ms, began = 1e3 * (loaded - start) / len(shown), time.perf_counter()
            with _named(batch), torch.inference_mode():
                for part, generated in self._generated(list(zip(batch, clips, strict=True))):
                    texts = self.tokenizer.batch_decode(generated.new, skip_special_tokens=True)
                    rows = [each for each, _ in part]
                    texts = [text.strip() for text in texts]
                    self._record(rows, texts, generated.lengths(), readers, load_ms, began)
                    began = time.perf_counter()

    def _generated(self, batch: list[tuple[Asked, np.ndarray]]) -> Iterator[tuple[list[Any], Generated]]:
        """The batch, or its halves where it runs out of memory, with what was generated for each."""

        def run(part: list[tuple[Asked, np.ndarray]]) -> Generated:
            return self.generate([clip for _, clip in part], [each for each, _ in part])

        if self.replicated:  # other processes would not know of halves
            yield batch, run(batch)
        else:
            yield from self._halve(batch, run)

    def answer_alone(self, asked: Asked) -> str:
        """What the built-in class answers."""
        return super().generate_until([asked.fresh()])[0]

    def _record(
        self,
        batch: list[Asked],
        texts: list[str],
        new: list[int] | None,
        readers: Mapping[Key, str | None],
        load_ms: float,
        began: float,
    ) -> None:
        """new: generated ids of each; None for one request, which took a step for each but the first of them.

        readers: who read the frames of each, None where the built-in class did or there are none.
        load_ms: what it took to read the frames of one; began: when the batch was begun with, behind that.
        """
        report = attached(self.model).report  # waits for the device
        count = len(batch)
        if new is None:
            beams = batch[0].generation.get("num_beams") or 1
            new = [report.stages["decode"].tokens // beams + 1]
        total_ms = load_ms + 1e3 * (time.perf_counter() - began) / count
        for row, (asked, text) in enumerate(zip(batch, texts, strict=True)):
            cost = cost_of(report, self._plan, row, count, load_ms, total_ms)
            head = {"task": asked.task, "doc_id": asked.doc_id, "prompt": asked.prompt, "answer": text}
            self.samples.add({**head, "new_tokens": new[row], "reader": readers[asked.key], **cost})


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
