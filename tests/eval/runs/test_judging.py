"""Judgements that fail are told from bad answers: lmms-eval's own code, asking a judge that fails on demand."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from dycoke.eval.runs.judge import JudgeFailed, check_judge, checked, fault
from tests.eval import judge

pytest.importorskip("lmms_eval")
DOC = {"video_name": "v", "question": "What color is the circle", "answer": "red", "question_id": "1", "type": "3"}
TASKS = {
    "activitynetqa": ("activitynetqa", "activitynetqa_process_results"),
    "video_dc499": ("video_detail_description", "video_detail_description_process_results_generic"),
}
NO_JUDGEMENTS = ["I think it is fine.", "", "{'pred': 'yes', 'score': None}", "[5]", "{'pred': 'maybe', 'score': 30}"]


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def asking():
    with judge.running_judge() as running:
        yield running


@pytest.fixture
def process_results(task, asking, monkeypatch):
    """The task's own function, loaded from its file as lmms-eval does, without its waits between attempts."""
    for name, value in asking.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", os.environ.get("HF_HOME", "unused"))
    folder, name = TASKS[task]
    (package,) = importlib.util.find_spec("lmms_eval").submodule_search_locations
    spec = importlib.util.spec_from_file_location(f"{folder}_utils", Path(package) / "tasks" / folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NUM_SECONDS_TO_SLEEP", 0)
    return getattr(module, name)


def test_an_answer_is_judged(task, asking, process_results):
    good, bad = (checked(task, process_results)(dict(DOC), [answer])["gpt_eval_score"] for answer in ("red", "blue"))
    assert (good["score"], bad["score"]) == (5, 0)
    assert [each["model"] for each in asking.asked] == [judge.KEY] * 2
    assert asking.keys == [f"Bearer {judge.KEY}"] * 2


@pytest.mark.parametrize("status", [401, 500])
def test_a_refusal_is_no_bad_answer(task, asking, process_results, status):
    asking.status = status
    with pytest.raises(JudgeFailed, match=f"^{task}: an answer was not judged"):
        checked(task, process_results)(dict(DOC), ["red"])
    assert len(asking.asked) == 5


@pytest.mark.parametrize("content", NO_JUDGEMENTS)
def test_a_reply_that_is_no_judgement_is_no_bad_answer(task, asking, process_results, content):
    asking.content = content
    with pytest.raises(JudgeFailed, match=f"^{task}: an answer was not judged"):
        checked(task, process_results)(dict(DOC), ["red"])


def test_nobody_there(task, process_results, monkeypatch):
    monkeypatch.setitem(process_results.__globals__, "API_URL", "http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(JudgeFailed, match=f"^{task}: an answer was not judged"):
        checked(task, process_results)(dict(DOC), ["red"])


def test_what_lmms_eval_makes_of_a_failure(task, asking, process_results):
    """The reason for `checked`; if it changes, this is the place to see it."""
    asking.status = 500
    if task == "activitynetqa":
        with pytest.raises(TypeError, match="'NoneType' object is not subscriptable"):
            process_results(dict(DOC), ["red"])
    else:
        assert process_results(dict(DOC), ["red"])["gpt_eval_score"]["score"] == 0


def test_a_fault_is_seen_in_a_logged_sample():
    sample = {"doc_id": 3, "gpt_eval_score": {"score": 0, "review": "Failed to Get a Proper Review."}}
    assert fault("video_dc499", sample) == "it said 'Failed to Get a Proper Review.'"
    sample["gpt_eval_score"]["review"] = "{'score': 0}"
    assert fault("video_dc499", sample) is None
    assert fault("videomme", {}) is None


def test_a_judged_task_needs_a_judge_and_no_other_does():
    check_judge("videomme", {})
    check_judge("somebodys_task", {})
    check_judge("video_dc499", {"OPENAI_API_KEY": "key"})
    with pytest.raises(ValueError, match=r"^activitynetqa: .*OPENAI_API_KEY"):
        check_judge("activitynetqa", {"OPENAI_API_KEY": ""})
    with pytest.raises(ValueError, match=r"API_TYPE='azure'"):
        check_judge("video_dc499", {"OPENAI_API_KEY": "key", "API_TYPE": "azure"})
