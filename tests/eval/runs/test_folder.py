"""Folders of runs: nothing half-written counts, and no folder is taken for another run's."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from dycoke.eval.runs.folder import METRICS, RunFolder
from dycoke.eval.runs.specs import Launcher, MethodSpec, ModelSpec, RunSpec
from dycoke.lab.interrupts import Interrupted
from dycoke.lab.jsonl import append_line, read_lines
from dycoke.lab.record import replacing, write_text

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
    whole = {key: {} for key in METRICS} | {"run": SPEC.id}
    folder.finish(folder.read_samples(), whole)
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "metrics.json", "samples.jsonl"]
    assert folder.complete
    assert folder.read_metrics() == whole
    assert folder.read_samples()[0]["doc_id"] == 0


def test_a_damaged_file_is_named(folder):
    folder.metrics.write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: cannot be read"):
        folder.read_metrics()
    folder.config.write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: cannot be read"):
        folder.check(SPEC)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "x"}', "\0" * 4096, "\ud800"])
def test_metrics_that_are_not_whole_do_not_make_a_run_complete(folder, text):
    assert not folder.damaged
    folder.metrics.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert folder.damaged and not folder.complete


def test_lines_that_were_lost_do_not_count(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_bytes(b'{"a": 1}\n\0\0\0\n{"a": "\xff"}\n[1]\n{"b": 2}\n{"a": "\xe2\x80\xa8"}\n{"a"')
    assert list(read_lines(file, ("a",))) == [{"a": 1}, {"a": "\u2028"}]


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_there(tmp_path):
    file = tmp_path / "main.md"
    file.write_text("before")
    for name in ("main.md.partial", "samples.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*main\.md'"):
        write_text(file, "after")
    assert file.read_text() == "before" and not (tmp_path / "main.md.partial").is_symlink()
    with pytest.raises(OSError, match=r"No space left on device: '.*samples\.jsonl'"):
        append_line(tmp_path / "samples.jsonl", {"a": 1})


def test_nothing_is_left_of_a_file_whose_writing_was_interrupted(tmp_path):
    with pytest.raises(Interrupted), replacing(tmp_path / "bars.png") as partial:
        partial.write_text("half")
        raise Interrupted(2)
    assert not list(tmp_path.iterdir())


def test_what_is_said_to_be_on_the_disk_is(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    append_line(tmp_path / "samples.jsonl", {"a": 1})
    write_text(tmp_path / "metrics.json", "{}")
    assert synced == [str(tmp_path / "samples.jsonl"), str(tmp_path / "metrics.json.partial")]
