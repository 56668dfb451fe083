"""The device that a run is said to be made on."""

from __future__ import annotations

import torch

from dycoke.eval.launch.sweep import _made
from dycoke.eval.runs.experiment import parse_experiment


def run_of(**launcher):
    content = {"model": {"id": "llava_onevision", "pretrained": "nano"}, "video": {"frames": 8}, "tasks": ["mvbench"]}
    return parse_experiment("one", content | {"methods": ["full"], "launcher": launcher}).runs[0]


def test_a_run_kept_on_the_cpu_names_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    assert _made(run_of())["device"] == "A GPU"
    assert _made(run_of(cpu=True, processes=2))["device"].startswith("CPU (")


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _made(run_of())["device"].startswith("CPU (")
