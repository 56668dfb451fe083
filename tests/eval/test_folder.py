"""Folders of runs: nothing half-written counts, and no folder is taken for another run's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dycoke.eval.folder import RunFolder
from dycoke.eval.specs import Launcher, MethodSpec, ModelSpec, RunSpec

SPEC = RunSpec("small", ModelSpec("llava_onevision", "nano"), 8, MethodSpec("dycoke", {"k": 0.5}), "mvbench")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder.of(tmp_path, SPEC)
    folder.start(SPEC, {"commit": "abc"})
    return folder


def sample(task: str, doc_id: int, answer: str = "A") -> str:
    return json.dumps({"task": task, "doc_id": doc_id, "prompt": "p", "answer": answer})


def test_the_config_is_written_first_and_is_what_the_run_is(folder, tmp_path):
    assert folder.path == tmp_path / "small" / "nano_f8_dycoke-k0.5__mvbench"
    assert folder.read_config() == SPEC.config() | {"made": {"commit": "abc"}}
    assert not folder.complete


def test_another_setting_is_refused_and_another_launcher_is_not(folder):
    folder.start(replace(SPEC, model=replace(SPEC.model, launcher=Launcher(processes=2))), {})
    with pytest.raises(ValueError, match=r"was made with limit=None, the experiment now says 3: give"):
        folder.start(replace(SPEC, limit=3), {})
    other = replace(SPEC, model=replace(SPEC.model, args={"dtype": "float16"}))
    with pytest.raises(ValueError, match=r"was made with model="):
        folder.check(other)


def test_samples_of_all_processes_are_read_each_once_and_a_cut_line_is_not(folder):
    folder.samples_of(0, 1).write_text(sample("b", 1) + "\n" + sample("a", 2) + "\n")
    folder.samples_of(1, 2).write_text(sample("a", 0) + "\n" + sample("b", 1) + "\n" + sample("a", 3)[:-5])
    assert folder.samples_of(1, 2).name == "samples.rank1.jsonl"
    assert [(each["task"], each["doc_id"]) for each in folder.read_samples()] == [("a", 0), ("a", 2), ("b", 1)]


def test_finishing_leaves_one_file_of_samples_and_the_metrics(folder):
    folder.samples_of(1, 2).write_text(sample("a", 0) + "\n")
    folder.finish(folder.read_samples(), {"run": SPEC.id})
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "metrics.json", "samples.jsonl"]
    assert folder.complete
    assert folder.read_metrics() == {"run": SPEC.id}
    assert folder.read_samples()[0]["doc_id"] == 0


def test_a_damaged_file_is_named(folder):
    folder.metrics.write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: cannot be read"):
        folder.read_metrics()
    folder.config.write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: cannot be read"):
        folder.check(SPEC)
