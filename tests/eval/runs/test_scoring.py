"""Scores that repeat: guesses do not depend on what was scored before, and no judgement is asked for twice."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from dycoke.eval.runs.folder import RunFolder
from dycoke.eval.runs.judge import JudgeFailed
from dycoke.eval.runs.scoring import ATTEMPTS, Judgements, document_hash, repeatable


class FakeTask:
    """As much of a task of lmms-eval as scoring touches."""

    def __init__(self, name, process):
        self.config = SimpleNamespace(task=name, process_results=process)

    def set_config(self, key, value):
        setattr(self.config, key, value)


def guess(doc, results):
    return {"score": random.random()}


def judged(doc, results):
    """As activitynetqa's: asks somebody, who says no."""
    judged.asked.append(results[0])
    if judged.silent:
        judged.silent -= 1
        raise TypeError("'NoneType' object is not subscriptable")
    return {"gpt_eval_score": {"Correctness": "no", "score": len(judged.asked)}}


@pytest.fixture(autouse=True)
def nobody_asked_yet():
    judged.asked, judged.silent = [], 0


@pytest.fixture
def file(tmp_path):
    return RunFolder(tmp_path).judgements_of(0, 1)


def test_a_guess_is_the_questions_own(file):
    task, docs = FakeTask("nextqa_mc_test", guess), [{"question": "a"}, {"question": "b"}, {"question": "c"}]
    with repeatable([task], 0, Judgements(file)):
        forth = [task.config.process_results(doc, [""])["score"] for doc in docs]
        back = [task.config.process_results(doc, [""])["score"] for doc in reversed(docs)][::-1]
    assert forth == back and len(set(forth)) == 3
    with repeatable([task], 1, Judgements(file)):
        assert task.config.process_results(docs[0], [""])["score"] != forth[0]
    assert task.config.process_results is guess


def test_a_judgement_is_asked_for_once_and_kept_across_attempts(tmp_path, file):
    task, doc = FakeTask("activitynetqa", judged), {"question": "q", "answer": "a"}
    with pytest.raises(KeyboardInterrupt), repeatable([task], 0, Judgements(file)):
        first = task.config.process_results(doc, ["yes"])
        assert task.config.process_results({**doc, "pred": "yes"}, ["yes"]) == first
        task.config.process_results(doc, ["another answer"])
        raise KeyboardInterrupt
    assert judged.asked == ["yes", "another answer"] and task.config.process_results is judged
    file.write_text(file.read_text()[:-5])  # the last line was cut off
    with repeatable([task], 0, Judgements(file, RunFolder(tmp_path).read_judgements())):
        assert task.config.process_results(doc, ["yes"]) == first
        assert judged.asked == ["yes", "another answer"]
        task.config.process_results(doc, ["another answer"])
    assert judged.asked == ["yes", "another answer", "another answer"]
    assert len(RunFolder(tmp_path).read_judgements()) == 2


def test_a_judge_that_does_not_answer_is_asked_again_and_then_ends_the_run(file):
    task, doc = FakeTask("activitynetqa", judged), {"question": "q"}
    with repeatable([task], 0, Judgements(file)):
        judged.silent = ATTEMPTS - 1
        assert task.config.process_results(doc, ["yes"])["gpt_eval_score"]["score"] == ATTEMPTS
        judged.silent = ATTEMPTS
        with pytest.raises(JudgeFailed, match="activitynetqa: an answer was not judged"):
            task.config.process_results(doc, ["no"])
    assert len(judged.asked) == 2 * ATTEMPTS
    assert len(file.read_text().splitlines()) == 1


def test_a_task_without_a_scorer_of_its_own_is_left_alone(file):
    task = FakeTask("own", None)
    with repeatable([task], 0, Judgements(file)):
        assert task.config.process_results is None


def test_documents_are_told_apart_by_what_the_data_set_says():
    doc = {"question": "q", "options": ["a", "b"]}
    same = document_hash("t", {**doc, "pred": "x", "picture": object()})
    assert document_hash("t", doc) == same
    others = [document_hash("u", doc), document_hash("t", {**doc, "options": ["b", "a"]}), document_hash("t", doc, "x")]
    assert len({same, *others}) == 4
    assert json.dumps(same)
