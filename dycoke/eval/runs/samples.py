"""Samples of a run: what each was asked and answered, and what that cost, one JSON line a sample as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from dycoke.lab.jsonl import append_line, end_last_line
from dycoke.report import STAGES, Report
from dycoke.types import Plan

Key = tuple[str, int, str]  # task, doc_id, hash of the prompt
_MEANS = ("frames", "visual_tokens", "visual_kept", "prompt_tokens", "new_tokens", "read_below", "read_from")
_TIMES = ("load", *STAGES, "total")


class Samples:
    """The answers of one run, known and new; with a file, each new one is a line of it at once.

    known: samples of an earlier attempt, whose answers stand. asked: what was asked for in this one.
    """

    def __init__(self, file: Path | None = None, known: Iterable[Mapping[str, Any]] = ()) -> None:
        self._file = file
        self.asked: set[Key] = set()
        self.answers: dict[Key, str] = {key_of(sample): sample["answer"] for sample in known}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            end_last_line(file)

    def add(self, sample: Mapping[str, Any]) -> None:
        """Keep a sample. Raises OSError if it cannot be written, and then it does not count as answered."""
        if self._file is not None:
            append_line(self._file, sample)
        self.answers[key_of(sample)] = sample["answer"]


def key_of(sample: Mapping[str, Any]) -> Key:
    """What tells samples apart."""
    return sample["task"], sample["doc_id"], sample["prompt"]


def prompt_hash(context: str, generation: Mapping[str, Any]) -> str:
    """SHA-256 of what is asked: the text of the question and how the answer is generated."""
    text = json.dumps([context, {key: generation[key] for key in sorted(generation)}], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def cost_of(report: Report, plan: Plan, row: int, rows: int, load_ms: float, total_ms: float) -> dict[str, Any]:
    """What a sample cost, of the report on its batch: row of `rows`, each with one video or none.

    A video may be reported as often as there are beams; those of a row stand together.
    Tokens of its video are its own; tokens inside the model and all times are the batch's divided by its rows.
    """
    beams, rest = divmod(len(report.videos), rows)
    video = report.videos[row * beams] if beams and not rest else None
    cache = report.cache
    inside = [[each.layer, each.tokens / rows] for each in report.inside]
    kept = 0 if video is None else video.kept
    decode = None
    if plan.decode is not None and video is not None:
        first = plan.decode.first_layer
        read = plan.decode.budget(int(_tokens_at(first, kept, inside)))
        decode = {"first_layer": first, "visual_read": read}
    times = {name: None if stage.ms is None else stage.ms / rows for name, stage in report.stages.items()}
    peaks = [stage.peak_bytes for stage in report.stages.values() if stage.peak_bytes is not None]
    return {
        "frames": 0 if video is None else video.frames,
        "visual_tokens": 0 if video is None else video.made,
        "visual_kept": kept,
        "inside": inside,
        "decode": decode,
        "prompt_tokens": report.stages["prefill"].tokens / rows,
        "read_below": None if cache is None else cache.read_below,
        "read_from": None if cache is None else cache.read_from,
        "batch": rows,
        "loop": report.loop,
        "ms": {"load": load_ms, **times, "total": total_ms},
        "peak_bytes": max(peaks, default=None),
    }


def summary(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the samples, the highest peak, and all their seconds; None where no sample says anything."""
    samples = list(samples)
    usage = {name: _mean(sample[name] for sample in samples) for name in _MEANS}
    layers = sorted({layer for sample in samples for layer, _ in sample["inside"]})
    decode_ms = sum(sample["ms"]["decode"] or 0 for sample in samples)
    decoded = sum(max(sample["new_tokens"] - 1, 0) for sample in samples)  # the first comes from prefill
    return usage | {
        "inside": [
            [layer, fmean(_tokens_at(layer, sample["visual_kept"], sample["inside"]) for sample in samples)]
            for layer in layers
        ],
        "decode": _decode(samples),
        "loops": sorted({sample["loop"] for sample in samples if "loop" in sample}),  # older samples do not say
        "ms": {name: _mean(sample["ms"][name] for sample in samples) for name in _TIMES},
        "decode_ms_per_token": decode_ms / decoded if decoded else None,
        "peak_bytes": max((s["peak_bytes"] for s in samples if s["peak_bytes"] is not None), default=None),
        "seconds": sum(sample["ms"]["total"] for sample in samples) / 1e3,
    }


def _tokens_at(layer: int, kept: float, inside: Iterable[tuple[int, float]]) -> float:
    """Visual tokens that go on into a layer: what the last drop before it left."""
    return next((tokens for at, tokens in reversed(list(inside)) if at <= layer), kept)


def _decode(samples: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """From which layer on a step reads how many visual tokens; None where a method reads all while decoding."""
    decodes = [sample["decode"] for sample in samples if sample["decode"] is not None]
    if not decodes:
        return None
    read = fmean(decode["visual_read"] for decode in decodes)
    return {"first_layer": decodes[0]["first_layer"], "visual_read": read}


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
