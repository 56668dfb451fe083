"""Experiment files: the runs they stand for, and one line for each thing that is wrong in one."""

from __future__ import annotations

import copy

import pytest

from dycoke.eval.runs.experiment import load_experiment, parse_experiment
from dycoke.options import parse_yaml

SMALL = """
title: A table
paper: table1
model: {id: llava_onevision, pretrained: lmms-lab/llava-onevision-qwen2-7b-ov, args: {conv_template: qwen_1_5}}
video: {frames: 32}
tasks: [videomme, mvbench]
methods:
  - full
  - {name: dycoke, k: [0.3, 0.7], l: 3, p: [0.7, 0.9], paper: "dycoke_k{k}_l{l}_p{p}"}
  - {name: pdrop, layers: [8, 16, 24], label: PDrop}
  - {plan: {before: visionzip, decode: {name: dycoke, l: 5}}}
  - {name: full, video: {frames: [8, 16]}, label: fewer frames}
limit: 5
generation: {max_new_tokens: 1}
launcher: {processes: 2, cpu: true}
"""


@pytest.fixture
def content() -> dict:
    return parse_yaml(SMALL)


def test_a_sweep_is_every_combination_in_order(content):
    runs = parse_experiment("small", content).runs
    rows = list(dict.fromkeys((run.method.label, run.frames) for run in runs))
    assert rows == [
        ("full", 32),
        ("dycoke k=0.3 l=3 p=0.7", 32),
        ("dycoke k=0.3 l=3 p=0.9", 32),
        ("dycoke k=0.7 l=3 p=0.7", 32),
        ("dycoke k=0.7 l=3 p=0.9", 32),
        ("PDrop", 32),
        ("before-visionzip-decode-dycoke-l5", 32),
        ("fewer frames", 8),
        ("fewer frames", 16),
    ]
    assert [run.task for run in runs[:3]] == ["videomme", "mvbench", "videomme"]
    assert len(runs) == len(rows) * 2


def test_a_run_says_all_that_decides_it(content):
    run = parse_experiment("small", content).runs[2]
    assert run.id == "llava-onevision-qwen2-7b-ov_f32_dycoke-k0.3-l3-p0.7__videomme"
    assert run.method.paper == "dycoke_k0.3_l3_p0.7"
    assert run.method.build().k == 0.3
    assert run.config() == {
        "run": run.id,
        "experiment": "small",
        "model": {
            "id": "llava_onevision",
            "pretrained": "lmms-lab/llava-onevision-qwen2-7b-ov",
            "args": {"conv_template": "qwen_1_5"},
        },
        "frames": 32,
        "reader": "pyav",
        "sampling": "index",
        "method": {"name": "dycoke", "options": {"k": 0.3, "l": 3, "p": 0.7}},
        "label": "dycoke k=0.3 l=3 p=0.7",
        "paper": "dycoke_k0.3_l3_p0.7",
        "task": "videomme",
        "limit": 5,
        "seed": 0,
        "batch_size": 1,
        "generation": {"max_new_tokens": 1},
        "score": True,
        "launcher": {"processes": 2, "machines": 1, "cpu": True},
    }


def test_a_batch_size_that_the_model_finds(content):
    content["batch_size"] = "auto"
    assert {run.batch_size for run in parse_experiment("small", content).runs} == {"auto"}


def test_rows_under_one_label_are_told_apart(content):
    content["methods"] = [
        "full",
        {"name": "dycoke", "k": [0.3, 0.7], "label": "Ours"},
        {"name": "fastv", "label": "FastV", "video": {"frames": [8, 16]}},
    ]
    labels = [run.method.label for run in parse_experiment("small", content).runs[::2]]
    assert labels == ["full", "Ours (dycoke-k0.3)", "Ours (dycoke-k0.7)", "FastV", "FastV"]


def test_an_option_that_is_a_list_is_no_sweep_but_a_list_of_lists_is_one(content):
    content["methods"] = [{"name": "pdrop", "layers": [[4, 6], [2, 3]]}]
    runs = parse_experiment("small", content).runs
    assert [run.method.build().layers for run in runs[::2]] == [(4, 6), (2, 3)]


def test_models_and_frames_are_swept_and_a_model_has_its_own_launcher(content):
    content["model"] = [
        content["model"],
        {**content["model"], "pretrained": "nano", "launcher": {"device_map": "auto"}},
    ]
    content["video"] = {"frames": [8, 32]}
    content["methods"] = [{"name": "full", "paper": "full_f{frames}"}]
    runs = parse_experiment("small", content).runs
    assert [run.method.paper for run in runs[:3]] == ["full_f8", "full_f8", "full_f32"]
    assert [(run.model.name, run.frames, run.launcher.count) for run in runs[::2]] == [
        ("llava-onevision-qwen2-7b-ov", 8, 2),
        ("llava-onevision-qwen2-7b-ov", 32, 2),
        ("nano", 8, 1),
        ("nano", 32, 1),
    ]
    assert runs[-1].launcher.device_map == "auto"


def test_a_row_may_be_for_some_of_the_models(content):
    small = {**content["model"], "pretrained": "/models/small/"}
    content["model"] = [content["model"], small, {**small, "pretrained": "nano"}]
    content["tasks"] = ["videomme"]
    content["methods"] = [
        {"name": "fastv", "r": 0.65, "models": ["small", "nano"]},
        "full",
        {"plan": {"before": "visionzip"}, "models": ["llava-onevision-qwen2-7b-ov"]},
        {"name": "fastv", "r": [0.55, 0.5], "models": ["llava-onevision-qwen2-7b-ov"], "video": {"frames": 8}},
    ]
    assert [run.id.partition("__")[0] for run in parse_experiment("small", content).runs] == [
        "llava-onevision-qwen2-7b-ov_f32_full",
        "llava-onevision-qwen2-7b-ov_f32_before-visionzip",
        "llava-onevision-qwen2-7b-ov_f8_fastv-r0.55",
        "llava-onevision-qwen2-7b-ov_f8_fastv-r0.5",
        "small_f32_fastv-r0.65",
        "small_f32_full",
        "nano_f32_fastv-r0.65",
        "nano_f32_full",
    ]


def test_rows_of_a_section_are_those_of_its_methods(content):
    content["methods"] = [
        "full",
        {"section": "25 %", "methods": [{"name": "random_drop", "keep": 0.25}, {"plan": {"before": "visionzip"}}]},
        {"name": "fastv", "r": [0.5, 0.6]},
    ]
    runs = parse_experiment("small", content).runs
    assert [(run.method.section, run.method.slug) for run in runs[::2]] == [
        ("", "full"),
        ("25 %", "random_drop-keep0.25"),
        ("25 %", "before-visionzip"),
        ("", "fastv-r0.5"),
        ("", "fastv-r0.6"),
    ]


def test_the_name_is_the_stem(tmp_path):
    (tmp_path / "my_table.yaml").write_text(SMALL)
    experiment = load_experiment(tmp_path / "my_table.yaml")
    assert (experiment.name, experiment.title, experiment.paper) == ("my_table", "A table", "table1")


WRONG = [
    ({"metods": []}, "unknown key metods; accepts: title, paper, include_path, model, video"),
    ({"tasks": None}, "tasks missing"),
    ({"tasks": "mvbench"}, "tasks='mvbench': expected a list"),
    ({"tasks": [7]}, "tasks: 7: expected a text"),
    ({"video": {"frames": 0}}, "video: frames=0: expected an integer of at least 1"),
    ({"video": {"fps": 1}}, "video: unknown key fps; accepts: frames"),
    ({"video": 32}, "video: expected a mapping with the keys frames"),
    ({"limit": 0}, "limit=0: expected an integer of at least 1"),
    ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
    ({"batch_size": "all"}, "batch_size='all': expected an integer of at least 1, or auto"),
    ({"batch_size": 0}, "batch_size=0: expected an integer of at least 1, or auto"),
    ({"score": "no"}, "score='no': expected true or false"),
    ({"generation": [1]}, "generation=[1]: expected a mapping"),
    ({"methods": []}, "methods=[]: expected a list"),
    ({"methods": ["fsatv"]}, "methods[0]: unknown method 'fsatv'; available: "),
    ({"methods": ["full", {"name": "dycoke", "kk": 1}]}, "methods[1]: dycoke: unknown option 'kk'; accepts: "),
    ({"methods": [{"name": "dycoke", "k": 1.5}]}, "methods[0]: "),
    ({"methods": [{"name": "dycoke", "k": []}]}, "methods[0]: an empty list of values"),
    ({"methods": [{"k": 1}]}, "methods[0]: {'k': 1}: expected a method's name, or a mapping with either name or plan"),
    ({"methods": [{"plan": {"before": "fastv"}}]}, "methods[0]: before: fastv has no stage 'before'"),
    (
        {"methods": [{"plan": {"before": "full"}, "k": 1}]},
        "methods[0]: unknown key k; accepts: plan, label, paper, video, models",
    ),
    *(
        ({"methods": ["full", {"name": "fastv", "models": names}]}, f"methods[1]: models={names!r}: expected a list")
        for names in ("llava-onevision-qwen2-7b-ov", ["7b"], [], [["7b"]])
    ),
    ({"methods": [{"name": "dycoke", "paper": "k{x}"}]}, "methods[0]: 'k{x}': expected {} around names of options"),
    ({"methods": [{"section": "25 %"}]}, "methods[0]: methods missing"),
    ({"methods": [{"section": 25, "methods": ["full"]}]}, "methods[0]: section: 25: expected a text"),
    ({"methods": [{"section": "a", "methods": []}]}, "methods[0]: methods=[]: expected a list"),
    ({"methods": [{"section": "a", "name": "full"}]}, "methods[0]: unknown key name; accepts: section, methods"),
    ({"methods": ["full", {"section": "a", "methods": ["x"]}]}, "methods[1]: methods[0]: unknown method 'x'"),
    (
        {"methods": [{"section": "a", "methods": [{"section": "b", "methods": ["full"]}]}]},
        "methods[0]: section 'a' has a section within it; expected methods",
    ),
    ({"methods": ["full", {"section": "a", "methods": ["full"]}]}, "_f32_full__videomme: the same run twice"),
    ({"methods": ["full", "full"]}, "_f32_full__videomme: the same run twice"),
    ({"model": {"id": "llava", "pretrained": "x"}}, "model: id 'llava': expected one of llava_onevision, llava_vid"),
    ({"model": {"id": "llava_vid"}}, "model: pretrained missing"),
    (
        {"model": {"id": "llava_vid", "pretrained": "x", "args": {"max_frames_num": 8}}},
        "max_frames_num is set by the ex",
    ),
    ({"model": {"id": "llava_vid", "pretrained": "x", "args": {"dycoke_k": 8}}}, "dycoke_k is set by the experiment"),
    ({"launcher": {"processes": 0}}, "launcher: processes=0: expected an integer of at least 1"),
    ({"launcher": {"gpus": 2}}, "launcher: unknown key gpus; accepts: processes, machines, cpu, device_map, deepspeed"),
    ({"launcher": {"processes": 2, "device_map": "auto"}}, "launcher: device_map=auto spreads one process"),
    ({"launcher": {"device_map": "balanced"}}, "launcher: device_map='balanced': expected auto"),
    ({"launcher": {"deepspeed": "zero3.json"}}, "launcher: deepspeed shards a model over several processes"),
    ({"launcher": {"cpu": 1}}, "launcher: cpu=1: expected true or false"),
]


@pytest.mark.parametrize(("change", "complaint"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said_in_one_line(content, change, complaint):
    changed = copy.deepcopy(content) | change
    with pytest.raises(ValueError) as caught:
        parse_experiment("small", changed)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "just text", "a: [", "\x00"])
def test_a_file_that_is_no_experiment_is_named(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml: "):
        load_experiment(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match=r"none\.yaml: No such file"):
        load_experiment(tmp_path / "none.yaml")


def test_a_name_that_is_no_folder_is_refused(content):
    with pytest.raises(ValueError, match="the experiment's name 'a table'"):
        parse_experiment("a table", content)


def test_who_reads_the_frames_and_which(content):
    run = parse_experiment("e", content | {"video": {"frames": 12, "reader": "pyav", "sampling": "time"}}).runs[0]
    assert (run.reader, run.sampling) == ("pyav", "time")
    assert "_f12-time_" in run.id
    usual = parse_experiment("e", content | {"video": {"frames": 12}}).runs[0]
    assert "_f12_" in usual.id and usual.config()["reader"] == "pyav" and usual.config()["sampling"] == "index"


@pytest.mark.parametrize("key,value", [("reader", "opencv"), ("sampling", "even"), ("readers", "pyav")])
def test_ways_to_read_that_there_are_none_of(content, key, value):
    with pytest.raises(ValueError, match=r"^video: "):
        parse_experiment("e", content | {"video": {"frames": 12, key: value}})
