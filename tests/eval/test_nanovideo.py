"""NanoVideoBench in lmms-eval: its tasks, what they ask and how they score, and a sweep with the embedded model."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from dycoke.nano import MODEL_PATH
from dycoke.nano.benchmark import cache_folder, documents
from dycoke.nano.generator import FAMILIES
from dycoke.nano.tokenizer import load
from tests.eval.launch.sweeping import answers, dycoke, metrics

pytest.importorskip("lmms_eval")

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate

from dycoke.eval.runs.lmms_tasks import load_task, task_manager

LEAVES = {f"nanovideo_{name}": family for name, family in FAMILIES.items()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The folder of caches, for videos and for Hugging Face."""
    monkeypatch.setenv("DYCOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def manager():
    return task_manager("llava_onevision")


@pytest.fixture(scope="module")
def leaves(manager):
    return {task.config.task: task for task in load_task("nanovideo", manager)}


def test_the_group_has_a_task_for_every_family(leaves):
    assert list(leaves) == list(LEAVES)
    for name, family in LEAVES.items():
        assert list(leaves[name].eval_docs) == documents(families=(family.name,))
        assert len(leaves[name].eval_docs) == 100
        assert leaves[name].config.cluster_key == "video"
        doc = leaves[name].eval_docs[7]
        assert (leaves[name].doc_to_text(doc), leaves[name].doc_to_target(doc)) == (doc["question"], doc["answer"])


def test_a_video_is_made_when_it_is_first_asked_for(leaves):
    doc = leaves["nanovideo_order"].eval_docs[1]
    assert not cache_folder().exists()
    (path,) = leaves["nanovideo_order"].doc_to_visual(doc)
    assert Path(path).is_file() and Path(path).parent == cache_folder() / "test-standard"
    assert leaves["nanovideo_digits"].doc_to_visual(leaves["nanovideo_digits"].eval_docs[1]) == [path]


def test_short_answers_are_right_or_wrong_and_long_ones_are_in_parts_right(leaves):
    for name, family in LEAVES.items():
        doc = leaves[name].eval_docs[0]
        metric = "word_f1" if family.long else "exact_match"
        right, wrong, half = (
            leaves[name].process_results(doc, [text])
            for text in (doc["answer"], "", " ".join(doc["answer"].split()[: len(doc["answer"].split()) // 2]))
        )
        assert right == {metric: 1.0, "score": 1.0} and wrong == {metric: 0.0, "score": 0.0}
        assert 0.5 < half["score"] < 1 if family.long else half["score"] == 0


def test_every_right_answer_can_be_given_in_full(leaves):
    tokenizer = load(MODEL_PATH)
    for name in LEAVES:
        given = leaves[name].config.generation_kwargs
        longest = max(len(tokenizer(doc["answer"]).input_ids) for doc in leaves[name].eval_docs)
        assert longest + 1 <= given["max_new_tokens"] and given["do_sample"] is False


def test_other_videos_by_a_task_of_ones_own(manager, tmp_path):
    """As docs/evaluation/nanovideobench.md says: a file that includes ours and names its own table of settings."""
    ours = Path(manager.task_index["nanovideo_digits"]["yaml_path"])
    settings = {"dataset_kwargs": {"data_files": {"test": "mine.json"}}}
    (tmp_path / "mine.json").write_text('[{"split": "validation", "videos": 3, "level": "hard", "start": 9}]')
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"include": str(ours), "task": "my_digits", **settings}))
    (task,) = load_task("my_digits", task_manager("llava_onevision", [str(tmp_path)]))
    assert list(task.eval_docs) == documents("validation", 3, "hard", 9, ("digits",))


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('[{"vidoes": 3}]', "unknown key vidoes; accepts: split, videos, level, start"),
        ('[{"videos": "3"}]', "videos='3': expected an integer of at least 1"),
        ('[{"videos": 3, "start": -1}]', "start=-1: expected an integer of at least 0"),
        ('[{"videos": 3, "level": ""}]', "level: '': expected a text"),
        ('[{"videos": 3, "level": "odd"}]', "level='odd': expected one of easy, standard, hard"),
        ('[{"videos": 3}, {"videos": 4}]', "a table of 2 rows: expected one, with split, videos, level, start"),
    ],
)
def test_a_table_of_other_settings_is_refused(manager, tmp_path, no_waiting, table, complaint):
    ours = Path(manager.task_index["nanovideo_digits"]["yaml_path"])
    settings = {"dataset_kwargs": {"data_files": {"test": "mine.json"}}}
    (tmp_path / "mine.json").write_text(table)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"include": str(ours), "task": "my_digits", **settings}))
    with pytest.raises(ValueError, match=re.escape(complaint)):
        load_task("my_digits", task_manager("llava_onevision", [str(tmp_path)]))


class Scripted(lmms):
    """Right about every other video, once it has seen that it is there."""

    def generate_until(self, requests) -> list[str]:
        return [self._answer(*request.args[2:]) for request in requests]

    def _answer(self, doc_to_visual, doc_id: int, task: str, split: str) -> str:
        doc = self.task_dict[task][split][doc_id]
        assert Path(doc_to_visual(doc)[0]).is_file()
        return doc["answer"] if doc_id % 2 else ""

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def test_lmms_eval_scores_the_group_and_a_limit_takes_the_first_videos(manager):
    found = simple_evaluate(
        Scripted(), tasks=["nanovideo"], limit=3, batch_size=1, bootstrap_iters=0, task_manager=manager
    )
    group = found["results"]["nanovideo"]
    assert [group[f"{metric},none"] for metric in ("score", "exact_match", "word_f1")] == pytest.approx([1 / 3] * 3)
    first = list(dict.fromkeys(doc["video"] for doc in documents(videos=3)))
    assert list(found["samples"]) == list(LEAVES)
    for logged in found["samples"].values():
        assert [sample["doc"]["video"] for sample in logged] == first
    assert sorted(path.name for path in cache_folder().rglob("*.mp4")) == first


@pytest.mark.slow
@pytest.mark.xdist_group("warm")
def test_a_sweep_over_the_group(tmp_path):
    content = {
        "model": {
            "id": "llava_onevision",
            "pretrained": "nano",
            "args": {"conv_template": "qwen_1_5", "model_name": "llava_qwen", "dtype": "float32"},
        },
        "video": {"frames": 8},
        "tasks": ["nanovideo"],
        "methods": ["full", {"name": "random_drop", "keep": 0.25}],
        "limit": 2,
    }
    (tmp_path / "nano.yaml").write_text(yaml.safe_dump(content))
    swept = dycoke("sweep", "nano.yaml", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    runs = metrics(tmp_path / "results" / "nano")
    assert len(runs) == 2
    for run, found in runs.items():
        assert found["samples"] == dict.fromkeys(LEAVES, 2)
        assert list(found["scored"]) == list(LEAVES)
        for leaf, family in LEAVES.items():
            metric = "word_f1" if family.long else "exact_match"
            scored = found["scored"][leaf]
            assert scored["clusters"] == [0, 1] and set(scored["values"]) == {metric, "score"}
            assert sum(scored["values"][metric]) / 2 == pytest.approx(found["scores"][leaf][metric])
        given = answers(tmp_path / "results" / "nano")[run]
        assert sorted((task, doc_id) for task, doc_id, _ in given) == sorted((t, d) for t in LEAVES for d in (0, 1))
    reported = dycoke("report", "nano", "--difference", "full", "random_drop keep=0.25", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "Transcript F1" in reported.stdout and "full minus random_drop keep=0.25" in reported.stdout
    assert "- No published benchmark: nanovideo." in reported.stdout.splitlines()
    with (tmp_path / "results" / "nano" / "tables" / "main.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["column"] == "nanovideo"]
    assert [row["samples"] for row in rows] == ["24", "24"]
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
