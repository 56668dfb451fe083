"""Scoring as lmms-eval's tasks do it, made to repeat: guesses are seeded, and a judgement is asked for once."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dycoke.eval.runs.judge import JudgeFailed, checked, is_judged
from dycoke.lab.jsonl import append_line, end_last_line

ATTEMPTS = 3  # at a judgement; lmms-eval asks five times in each, and takes one that it cannot read for an answer
PARALLEL = 4  # judgements asked for at a time; what is not judged is scored one by one, because guesses share a seed
_WRITTEN_BY_TASKS = ("pred",)  # what tasks write into a document beside what is in the data set

Process = Callable[..., Any]


@contextmanager
def repeatable(tasks: Sequence[Any], seed: int, judgements: Judgements) -> Iterator[None]:
    """Have lmms-eval's tasks score in a way that does not depend on order or number of processes.

    An answer without a letter is a guess in some tasks: the same one for the same question. What a judge said holds for
    the same answer to the same question. Raises JudgeFailed, from within, for an answer that could not be judged.
    """
    before = {task: task.config.process_results for task in tasks if callable(task.config.process_results)}
    for task, process in before.items():
        name = task.config.task
        inner = judgements.keeping(name, checked(name, process)) if is_judged(name) else process
        task.set_config("process_results", _seeded(name, seed, inner))
    try:
        yield
    finally:
        for task, process in before.items():
            task.set_config("process_results", process)


class Judgements:
    """What the judge said of each answer: a line of `file` as it comes. known: lines of earlier attempts."""

    def __init__(self, file: Path, known: Iterable[Mapping[str, Any]] = ()) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = {line["of"]: line["judged"] for line in known}
        end_last_line(file)

    def keeping(self, task: str, process: Process) -> Process:
        """A task's process_results that asks for what is not known, and asks again where that fails."""

        def judged(doc: Mapping[str, Any], results: list[str], **further: Any) -> Any:
            of = document_hash(task, doc, results)
            if of not in self._known:
                found = _attempted(lambda: process(doc, results, **further))
                with self._lock:
                    append_line(self._file, {"of": of, "judged": found})
                    self._known[of] = found
            return self._known[of]

        return judged


def document_hash(task: str, doc: Mapping[str, Any], *further: Any) -> str:
    """SHA-256 of a document of a task as the data set has it; pictures and other objects do not count."""
    plain = {key: value for key, value in doc.items() if key not in _WRITTEN_BY_TASKS and _is_plain(value)}
    text = json.dumps([task, plain, further], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _seeded(task: str, seed: int, process: Process) -> Process:
    def scored(doc: Mapping[str, Any], results: list[str], **further: Any) -> Any:
        random.seed(f"{seed} {document_hash(task, doc)}")  # the global generator is what tasks guess with
        return process(doc, results, **further)

    return scored


def _attempted(judge: Callable[[], Any]) -> Any:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return judge()
        except JudgeFailed:
            if attempt == ATTEMPTS:
                raise


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)
