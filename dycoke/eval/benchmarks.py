"""The benchmarks of the paper and their neighbours: what lmms-eval measures of each, and the columns that becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dycoke.nano.generator import FAMILIES

Leaf = TypeVar("Leaf")
Scores = Mapping[str, Mapping[str, Any]]
"""{leaf task: {metric: value, metric_stderr: value}}; a metric without the filter that lmms-eval puts behind it."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the published tables, lmms-eval's metric, its label, and the paper's unit.

    scale: what a value of lmms-eval is multiplied by; accuracies are percent in the paper, judged scores 0 to 5.
    percent: whether that unit is known to be percent, so that a mean with other such columns means something.
    leaves: the leaf tasks it is about, None for all of them. part: whether another column counts them too.
    """

    key: str
    metric: str
    label: str
    scale: float = 1.0
    percent: bool = True
    leaves: tuple[str, ...] | None = None
    part: bool = False

    @property
    def averaged(self) -> bool:
        """Whether it counts in a mean over columns."""
        return self.percent and not self.part

    def of(self, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
        """What is known of its own leaf tasks, out of all. Raises ValueError if one is missing."""
        wanted = leaves if self.leaves is None else self.leaves
        missing = [leaf for leaf in wanted if leaf not in leaves]
        if missing:
            raise ValueError(f"{self.key}: nothing of {', '.join(missing)}; has {', '.join(leaves) or 'nothing'}")
        return {leaf: leaves[leaf] for leaf in wanted}


@dataclass(frozen=True)
class Benchmark:
    """A task or group of tasks of lmms-eval, and its columns.

    judged: whether another model judges the answers. published: whether it is a benchmark of others, not ours.
    """

    task: str
    columns: tuple[Column, ...]
    judged: bool = False
    published: bool = True


def _benchmark(task: str, metric: str, label: str, scale: float = 1.0, published: bool = True) -> Benchmark:
    return Benchmark(task, (Column(task, metric, label, scale),), published=published)


def _nanovideo() -> tuple[Benchmark, ...]:
    """NanoVideoBench and, each for itself, its families."""
    tasks = {name: f"nanovideo_{name}" for name in FAMILIES}
    short = tuple(tasks[name] for name, family in FAMILIES.items() if not family.long)
    families = {
        name: Column(
            tasks[name],
            "word_f1" if family.long else "exact_match",
            f"{name.replace('_', ' ').capitalize()}{' F1' if family.long else ''}",
            100,
            leaves=(tasks[name],),
        )
        for name, family in FAMILIES.items()
    }
    return (
        Benchmark(
            "nanovideo",
            (
                Column("nanovideo", "score", "NanoVideo", 100),
                Column("nanovideo_short", "exact_match", "Short answers", 100, leaves=short, part=True),
                *(replace(column, part=True) for column in families.values()),
            ),
            published=False,
        ),
        *(Benchmark(column.key, (column,), published=False) for column in families.values()),
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.task: benchmark
    for benchmark in (
        Benchmark(
            "activitynetqa",
            (
                Column("activitynetqa_acc", "gpt_eval_accuracy", "ActNet-QA acc."),
                Column("activitynetqa_score", "gpt_eval_score", "ActNet-QA score", percent=False),
            ),
            judged=True,
        ),
        _benchmark("nextqa_mc_test", "exact_match", "NextQA mc", scale=100),
        _benchmark("perceptiontest_val_mc", "accuracy", "PerceptionTest val", scale=100),
        Benchmark("video_dc499", (Column("video_dc499", "gpt_eval_score", "VideoDC", percent=False),), judged=True),
        _benchmark("videomme", "videomme_perception_score", "VideoMME wo"),
        _benchmark("videomme_w_subtitle", "videomme_perception_score", "VideoMME w-subs"),
        _benchmark("mvbench", "mvbench_accuracy", "MVBench"),
        _benchmark("egoschema_subset", "score", "EgoSchema subset", scale=100),
        _benchmark("longvideobench_val_v", "lvb_acc", "LongVideoBench val", scale=100),
        _benchmark("mlvu_dev", "mlvu_percetion_score", "MLVU dev"),  # spelt so by lmms-eval
        _benchmark("nano_samples_short", "exact_match", "Samples, short answers", 100, published=False),
        _benchmark("nano_samples_long", "word_f1", "Samples, long answers", 100, published=False),
        *_nanovideo(),
    )
}


def columns_of(task: str, scores: Scores) -> tuple[Column, ...]:
    """The columns of a task; of a task that is not listed here, every metric that came with a number, as it is."""
    if task in BENCHMARKS:
        return BENCHMARKS[task].columns
    metrics = dict.fromkeys(
        metric
        for leaf in scores.values()
        for metric, given in leaf.items()
        if _is_number(given) and not metric.removesuffix("_clt").removesuffix("_clustered").endswith("_stderr")
    )
    if len(metrics) == 1:
        return tuple(Column(task, metric, task, percent=False) for metric in metrics)
    return tuple(Column(f"{task}_{metric}", metric, f"{task} {metric}", percent=False) for metric in metrics)


def value(column: Column, scores: Scores) -> float:
    """A column's value: the mean over its leaf tasks, each with the same weight, in the paper's unit.

    Raises ValueError if there are no leaf tasks, one of them is missing or has no number for the metric.
    """
    if not scores:
        raise ValueError(f"{column.key}: no scores")
    chosen = column.of(scores)
    for leaf, metrics in chosen.items():
        if not _is_number(metrics.get(column.metric)):
            raise ValueError(
                f"{leaf}: {column.metric}={metrics.get(column.metric)!r}: expected a number; has {', '.join(metrics)}"
            )
    return column.scale * sum(metrics[column.metric] for metrics in chosen.values()) / len(chosen)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)
