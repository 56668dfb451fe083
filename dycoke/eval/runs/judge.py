"""Answers that another model judges: whether one can be asked, and whether it did judge, which lmms-eval does not say.

A judgement that fails is no answer that scored badly. lmms-eval asks five times, five seconds apart, and then counts 0
(video_dc499) or raises a TypeError (activitynetqa); of a reply that it cannot read it does the same at once.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from dycoke.eval.benchmarks import BENCHMARKS

# Beside it lmms-eval reads, once, where a judged task is loaded: OPENAI_API_URL, the whole URL of the chat completions
# (OpenAI's unless set), MODEL_VERSION, the judge's name (gpt-4o-2024-11-20 unless set; the paper used gpt-4o-mini), and
# API_TYPE, of which only "openai", the default, works.
JUDGE_KEY = "OPENAI_API_KEY"

BEST = 5  # scores go from 0 to this


class JudgeFailed(RuntimeError):
    """An answer was not judged."""


def check_judge(task: str, environment: Mapping[str, str]) -> None:
    """Raise ValueError if a task is judged and the environment names no judge that lmms-eval can ask.

    Without a key lmms-eval asks all the same, and is turned away for each answer.
    """
    if not is_judged(task):
        return
    if not environment.get(JUDGE_KEY):
        raise ValueError(
            f"{task}: its answers are judged by another model; set {JUDGE_KEY} (and OPENAI_API_URL, MODEL_VERSION for "
            "another than OpenAI's), or score: false in the experiment"
        )
    if environment.get("API_TYPE", "openai") != "openai":
        raise ValueError(f"{task}: API_TYPE={environment['API_TYPE']!r}: its judge is asked only if that is openai")


def fault(task: str, found: Mapping[str, Any]) -> str | None:
    """What is wrong with a judgement, None if nothing is; of a task that is not judged nothing ever is.

    found: what the task's process_results returned, or a sample that lmms-eval logged, which holds the same keys.
    """
    if not is_judged(task):
        return None
    judged = found["gpt_eval_score"]
    if "review" not in judged:
        right, score = judged["Correctness"], judged["score"]
        good = right in ("yes", "no") and 0 <= score <= BEST
        return None if good else f"it said {right!r} with score {score!r}"
    score = _score(judged["review"])
    return None if score is not None and 0 <= score <= BEST else f"it said {judged['review']!r}"


def checked(task: str, process_results: Callable[..., Any]) -> Callable[..., Any]:
    """A judged task's process_results, raising JudgeFailed instead of counting what nobody judged."""

    @wraps(process_results)
    def judged(doc: Mapping[str, Any], results: list[str], **further: Any) -> Any:
        try:
            found = process_results(doc, results, **further)
        except TypeError as error:
            raise JudgeFailed(f"{task}: an answer was not judged: no reply, or one that is not a judgement") from error
        wrong = fault(task, found)
        if wrong is not None:
            raise JudgeFailed(f"{task}: an answer was not judged: {wrong}")
        return found

    return judged


def is_judged(task: str) -> bool:
    """Whether another model judges the answers of a task."""
    return task in BENCHMARKS and BENCHMARKS[task].judged


def _score(review: str) -> int | None:
    """The score in a reply, read as lmms-eval reads it for video_dc499; None where it would count 0 instead."""
    try:
        return int(ast.literal_eval(review)["score"])
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError):
        return None
