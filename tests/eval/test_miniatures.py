"""lmms-eval's own tasks, end to end and offline on their data in miniature: prompts, samples, scores and judgements."""

from __future__ import annotations

import json
import os
import re
import sys
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from dycoke.eval.benchmarks import BENCHMARKS, columns_of, value
from dycoke.eval.runs.judge import fault
from dycoke.nano import CONVERSATION
from tests import warm
from tests.eval.judge import KEY, score
from tests.eval.launch.sweeping import dycoke, metrics
from tests.eval.miniatures import FRAMES, MINIATURES, environment, leaves
from tests.eval.miniatures.asked import LETTERS
from tests.eval.miniatures.choices import SPOKEN
from tests.eval.miniatures.dataset import Doc
from tests.eval.scripted import is_right, right

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("warm")]  # one process has the passes they share
pytest.importorskip("lmms_eval")

ROOT = Path(__file__).parent.parent.parent
JUDGED = [task for task, benchmark in BENCHMARKS.items() if benchmark.judged]
CHOICES = [task for task in MINIATURES if task not in JUDGED]
FEW = ("mlvu_dev", "nextqa_mc_test", "video_dc499", "mvbench")  # choices, a guess, a judge; a group, folders of frames
GUESSING = ("nextqa_mc_test", "egoschema_subset", "longvideobench_val_v")  # these guess where there is no letter
MLVU_TYPES = 7

SWEPT = {
    "model": {
        "id": "llava_onevision",
        "pretrained": "nano",
        "args": {"conv_template": CONVERSATION, "model_name": "llava_qwen", "dtype": "float16"},
    },
    "video": {"frames": FRAMES},
    "methods": ["full", {"name": "dycoke", "k": 0.7, "l": 5, "p": 0.7}],
}

Samples = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tasks(request) -> list[str]:
    """The tasks that a model answers: one of each kind, or with --all each of them. The script answers all."""
    return list(MINIATURES if request.config.getoption("--all") else FEW)


@pytest.fixture
def found(request, passes, tasks) -> dict[str, Any]:
    """What a pass gave; the test is left out where that pass has not run the task."""
    which, task = (request.node.callspec.params[name] for name in ("which", "task"))
    if which == "stock" and task not in tasks:
        pytest.skip("with --all")
    return passes[which]


@pytest.fixture(scope="module")
def passes(miniatures, tasks, judge, tmp_path_factory) -> dict[str, Any]:
    """What the two passes gave, {pass: {leaf task: {"metrics", "samples"}}}, and under "log" what they said."""
    file = tmp_path_factory.mktemp("passes") / "found.json"
    settings = judge.environment | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = warm.run(
        [sys.executable, "-m", "tests.eval.passes", str(file), *tasks],
        env=environment(miniatures, os.environ) | settings,
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text()) | {"log": done.stderr}


@pytest.fixture(scope="module")
def swept(miniatures, tasks, judge, tmp_path_factory) -> Path:
    """The results of our own sweep over these tasks: half precision, as lmms-eval's own class has it."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "all.yaml").write_text(json.dumps(SWEPT | {"tasks": tasks}))
    done = dycoke("sweep", "all.yaml", cwd=folder, **environment(miniatures, judge.environment))
    assert done.returncode == 0, done.stderr
    return folder / "results" / "all"


def samples_of(found: dict[str, Any], task: str) -> Samples:
    return {leaf: found[leaf]["samples"] for leaf in leaves(task)}


def values_of(found: dict[str, Any], task: str) -> dict[str, float]:
    """The columns of a task, from the metrics that lmms-eval gave."""
    scores = {}
    for leaf in leaves(task):
        metrics = found[leaf]["metrics"].items()
        scores[leaf] = {key.removesuffix(",none"): each for key, each in metrics if key.endswith(",none")}
    return {column.key: value(column, scores) for column in columns_of(task, scores)}


def implied(task: str, hits: dict[str, list[Fraction]], docs: dict[str, list[Doc]]) -> float:
    """The score that right (1) and wrong (0) answers imply, in the paper's unit; each leaf weighs the same."""
    if task == "mlvu_dev":
        kinds: dict[str, list[Fraction]] = {}
        for hit, doc in zip(hits[task], docs[task], strict=True):
            kinds.setdefault(doc["task_type"], []).append(hit)
        return float(100 * sum(sum(each) / len(each) for each in kinds.values()) / MLVU_TYPES)
    return float(100 * sum(sum(each) / len(each) for each in hits.values()) / len(hits))


def docs_of(samples: Samples) -> dict[str, list[Doc]]:
    return {leaf: [sample["doc"] for sample in each] for leaf, each in samples.items()}


def options_of(doc: Doc) -> list[str]:
    """A sample's options, without the letters that some rows have before them."""
    listed = next((doc[key] for key in ("options", "option", "candidates") if key in doc), None)
    if listed is None:
        listed = [doc.get(f"{name}{place}") for name in ("a", "option") for place in range(5)]
    return [re.sub(r"^[A-E]\. ", "", option) for option in listed if option not in (None, "N/A")]


@pytest.mark.parametrize("which", ["stock", "scripted"])
@pytest.mark.parametrize("task", MINIATURES)
def test_every_sample_is_asked_once(found, task, which):
    for leaf, data in leaves(task).items():
        samples = found[leaf]["samples"]
        assert [sample["doc_id"] for sample in samples] == list(range(len(data.docs)))
        assert all(sample["doc"].items() >= doc.items() for sample, doc in zip(samples, data.docs, strict=True))
        assert all(sample["filtered_resps"][0] for sample in samples)


@pytest.mark.parametrize("task", MINIATURES)
def test_a_prompt_holds_the_question_and_its_options(passes, task):
    for sample in (sample for each in samples_of(passes["scripted"], task).values() for sample in each):
        prompt, doc = sample["arguments"][0], sample["doc"]
        shown = re.findall(r"(?m)^\(?([A-E])[.)] (.*)$", prompt)
        assert doc["question"].lower() in prompt.lower()
        assert [text for _, text in shown] == options_of(doc)
        assert "".join(letter for letter, _ in shown) == LETTERS[: len(shown)]
        assert bool(shown) == (task in CHOICES)


def test_subtitles_stand_in_the_prompt_of_the_task_with_subtitles_alone(passes):
    with_subtitles, without = (
        [sample["arguments"][0] for sample in passes["scripted"][task]["samples"]]
        for task in ("videomme_w_subtitle", "videomme")
    )
    assert [all(text in prompt for text in SPOKEN) for prompt in with_subtitles] == [True, True, False, False]
    assert ["No subtitles available" in prompt for prompt in with_subtitles] == [False, False, True, True]
    # there are subtitles with LongVideoBench's videos, too; its variant for video models shows none
    without += [sample["arguments"][0] for sample in passes["scripted"]["longvideobench_val_v"]["samples"]]
    assert not any(text in prompt for prompt in without for text in (*SPOKEN, "No subtitles"))


@pytest.mark.parametrize("task", CHOICES)
def test_a_choice_scores_what_the_script_says(passes, task):
    samples = samples_of(passes["scripted"], task)
    hits = {leaf: [Fraction(is_right(leaf, each["doc_id"])) for each in found] for leaf, found in samples.items()}
    expected = implied(task, hits, docs_of(samples))
    assert 0 < expected < 100
    assert values_of(passes["scripted"], task) == {task: pytest.approx(expected, abs=1e-3)}


def test_the_model_is_asked_what_the_script_is(passes, tasks):
    for leaf in (leaf for task in tasks for leaf in leaves(task)):
        stock, scripted = (
            [sample["arguments"][0] for sample in passes[which][leaf]["samples"]] for which in ("stock", "scripted")
        )
        assert stock == scripted


@pytest.mark.parametrize("which", ["stock"])
@pytest.mark.parametrize("task", CHOICES)
def test_a_choice_scores_what_the_models_answers_say(found, task, which):
    """A letter is right or wrong; what holds none is wrong, or a guess, which bounds the score from both sides."""
    samples = samples_of(found, task)
    bounds = []
    for guess in (0, task in GUESSING):
        hits = {
            leaf: [
                Fraction(letter.group() == right(leaf, each["doc"]) if letter else int(guess))
                for each in found
                for letter in [re.search(r"\b[A-E]\b", each["filtered_resps"][0])]
            ]
            for leaf, found in samples.items()
        }
        bounds.append(implied(task, hits, docs_of(samples)))
    (value,) = values_of(found, task).values()
    assert bounds[0] - 1e-3 <= value <= bounds[1] + 1e-3


@pytest.mark.parametrize("which", ["stock", "scripted"])
@pytest.mark.parametrize("task", JUDGED)
def test_an_open_answer_scores_what_the_judge_says(found, task, which):
    samples = found[task]["samples"]
    assert not any(fault(task, sample) for sample in samples)
    points = [score(sample["doc"]["answer"], sample["filtered_resps"][0]) for sample in samples]
    values = list(values_of(found, task).values())
    assert values[-1] == pytest.approx(fmean(points))
    assert values[:-1] == [pytest.approx(100 * fmean(each > 3 for each in points))][: len(values) - 1]
    if which == "scripted":
        assert [each == 5 for each in points] == [is_right(task, sample["doc_id"]) for sample in samples]


def test_the_model_sees_the_videos(passes):
    """It describes most events of a scene; a video that cannot be read would leave the question alone."""
    assert "in loading video" not in passes["log"]
    assert values_of(passes["stock"], "video_dc499")["video_dc499"] >= 3
    answers = [sample["filtered_resps"][0] for sample in passes["stock"]["video_dc499"]["samples"]]
    assert len(set(answers)) == len(answers)


def test_the_judge_is_asked_once_for_each_open_answer(passes, tasks, judge):
    asked = JUDGED + [task for task in JUDGED if task in tasks]  # the script's answers, and the model's
    docs = [doc for task in asked for data in MINIATURES[task] for doc in data.docs]
    assert len(judge.asked) == len(docs)
    assert {request["model"] for request in judge.asked} == {KEY}
    text = "\n".join(request["messages"][-1]["content"] for request in judge.asked)
    assert all(text.count(f"Correct Answer: {doc['answer']}\n") >= docs.count(doc) for doc in docs)


def test_a_sweep_gives_the_scores_of_lmms_eval_itself(passes, tasks, swept):
    found = {task: content for run, content in metrics(swept).items() for task in [content["task"]] if "_full_" in run}
    assert set(found) == set(tasks)
    for task, content in found.items():
        assert content["samples"] == {leaf: len(data.docs) for leaf, data in leaves(task).items()}
        if task not in GUESSING:  # where the guesses are seeded otherwise
            ours = {column.key: value(column, content["scores"]) for column in columns_of(task, content["scores"])}
            assert ours == pytest.approx(values_of(passes["stock"], task)), task


def test_a_sweep_shows_every_method_the_same_data_and_tells_what_it_kept(tasks, swept):
    prints: dict[str, set] = {}
    for run, content in metrics(swept).items():
        prints.setdefault(content["task"], set()).add(json.dumps(content["fingerprint"]))
        made, kept = content["usage"]["visual_tokens"], content["usage"]["visual_kept"]
        assert made == 16 * FRAMES and kept == (made if "_full_" in run else 16 + 3 * 4)
    assert all(len(each) == 1 for each in prints.values()) and len(prints) == len(tasks)
    assert len({each for found in prints.values() for each in found}) == len(tasks)


def test_judgements_of_a_sweep_are_kept(tasks, swept):
    for task in (task for task in JUDGED if task in tasks):
        folders = list(swept.glob(f"*__{task}"))
        assert len(folders) == 2  # methods
        for folder in folders:
            lines = (folder / "judgements.jsonl").read_text().splitlines()
            answers = {json.loads(line)["answer"] for line in (folder / "samples.jsonl").read_text().splitlines()}
            assert len(lines) >= len(answers) > 0
