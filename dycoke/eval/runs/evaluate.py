"""One run: a method on a loaded model, one task of lmms-eval, its samples and its metrics in the run's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.task import Task
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from dycoke.eval.runs.folder import RunFolder
from dycoke.eval.runs.job import Job
from dycoke.eval.runs.judge import is_judged
from dycoke.eval.runs.sample_scores import scored
from dycoke.eval.runs.samples import Samples, key_of, summary
from dycoke.eval.runs.scoring import PARALLEL, Judgements, document_hash, repeatable
from dycoke.eval.runs.specs import RunSpec
from dycoke.lab.ranks import Ranks
from dycoke.model_shape import Shape


def evaluate(model: Any, spec: RunSpec, tasks: list[Task], manager: TaskManager, job: Job) -> None:
    """Answer and score one run, and write its metrics when all is done.

    model: of `dycoke.eval`; tasks: the run's task, or the leaves of its group. Answers an earlier attempt left in the
    folder stand. Where one model is sharded over all processes, each of them answers every sample, and the first one
    writes and scores. Raises SampleFailed for a sample that cannot be answered, and OSError if the folder cannot be
    written.
    """
    folder, ranks = RunFolder.of(Path(job.results), spec), Ranks.current()
    share = Ranks() if model.replicated else ranks
    made = {**job.made, "dtype": str(model.model.dtype).removeprefix("torch.")}
    if ranks.is_main:
        folder.start(spec, made)
        job.announce(spec.id, sum(_count(task, spec.limit) for task in tasks))
    ranks.wait()
    writes = ranks.is_main or not model.replicated
    samples = Samples(folder.samples_of(share.rank, share.world) if writes else None, folder.read_samples())
    ranks.wait()  # all have read what is there before one writes on
    model.max_frames_num, model.reader, model.sampling = spec.frames, spec.reader, spec.sampling
    model.use(spec.method.build(), samples)
    judged = spec.score and writes
    judgements = Judgements(folder.judgements_of(share.rank, share.world), folder.read_judgements()) if judged else None
    with _as_one_process(model.replicated), repeatable(tasks, spec.seed, judgements) if judged else nullcontext():
        results = _run(model, spec, tasks, manager, judged)
    asked = set().union(*ranks.gather([samples.asked]))
    if ranks.is_main:
        done = [sample for sample in folder.read_samples() if key_of(sample) in asked]
        folder.finish(done, metrics(spec, results, done, model.model) | {"made": made})
    ranks.wait()


@contextmanager
def _as_one_process(replicated: bool) -> Iterator[None]:
    """Let lmms-eval, which reads its ranks from the environment, give this process every sample."""
    names = ("RANK", "WORLD_SIZE") if replicated else ()
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


def _run(model: Any, spec: RunSpec, tasks: list[Task], manager: TaskManager, score: bool) -> dict[str, Any] | None:
    """What lmms-eval makes of the run; None in all processes but the first."""
    return simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        limit=spec.limit,
        batch_size=spec.batch_size,
        gen_kwargs=",".join(f"{key}={value}" for key, value in spec.generation.items()) or None,
        predict_only=not score,
        process_docs_parallel=PARALLEL if is_judged(spec.task) else 1,
        random_seed=spec.seed,
        numpy_random_seed=spec.seed,
        torch_random_seed=spec.seed,
        fewshot_random_seed=spec.seed,
    )


def metrics(spec: RunSpec, results: Mapping[str, Any], samples: list[dict[str, Any]], model: torch.nn.Module) -> dict:
    """What metrics.json holds: scores, of each sample too, counts, what was asked, the model's shape, the costs."""
    logged = results["samples"]
    scores = {task: _scores(results["results"][task]) for task in logged} if spec.score else {}
    return {
        "run": spec.id,
        "task": spec.task,
        "scores": scores,
        "scored": scored(results, scores) if spec.score else {},
        "samples": {task: len(each) for task, each in logged.items()},
        "fingerprint": {
            "data": _fingerprint(
                (task, each["doc_id"], document_hash(task, each["doc"])) for task in logged for each in logged[task]
            ),
            "prompts": _fingerprint(key_of(sample) for sample in samples),
        },
        "shape": asdict(Shape.of(model.config)),
        "usage": summary(samples),
    }


def _count(task: Task, limit: int | None) -> int:
    count = len(task.eval_docs)
    return count if limit is None else min(limit, count)


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one task, without the name of lmms-eval's filter where it is "none"; what is no number is None."""
    found = {}
    for key, value in row.items():
        name, _, filtered = key.partition(",")
        if filtered:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            found[name if filtered == "none" else key] = value if number else None
    return found


def _fingerprint(parts: Iterable[tuple]) -> str:
    text = "\n".join(json.dumps(part) for part in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()
