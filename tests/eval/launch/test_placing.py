"""Where a model of an evaluation goes, by its arguments, on machines with and without GPUs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("accelerate")

from dycoke.eval.models import place as placing
from dycoke.eval.models.place import place


@pytest.fixture
def gpus(monkeypatch):
    """Let torch believe in so many GPUs."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One process, whatever accelerate makes of this machine."""
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    monkeypatch.setattr(placing, "Accelerator", lambda **_: accelerator)
    return accelerator


@pytest.mark.parametrize(
    ("count", "given", "device", "device_map"),
    [
        (0, {}, "cpu", "cpu"),
        (0, {"device_map": "auto"}, "cpu", "cpu"),
        (0, {"device": "cpu", "device_map": "cuda:0"}, "cpu", "cpu"),
        (2, {}, "cuda:0", "cuda:0"),
        (2, {"device": "cuda"}, "cuda:0", "cuda:0"),
        (2, {"device": "cuda:1"}, "cuda:1", "cuda:1"),
        (2, {"device_map": "cuda:1"}, "cuda:1", "cuda:1"),
        (2, {"device": "cuda:0", "device_map": "cuda:1"}, "cuda:0", "cuda:0"),
        (2, {"device_map": "auto"}, "cuda:0", "auto"),
        (2, {"device": "cpu", "device_map": "auto"}, "cpu", "cpu"),
    ],
)
def test_one_process(gpus, count, given, device, device_map):
    gpus(count)
    where = place(**given)
    assert (where.device, where.device_map) == (torch.device(device), device_map)
    assert where.share == (0, 1)


@pytest.mark.parametrize(
    ("count", "given", "words"),
    [
        (0, {"device": "cuda"}, "device 'cuda': this machine has 0 usable GPUs"),
        (0, {"device_map": "cuda:0"}, "device 'cuda:0': this machine has 0 usable GPUs"),
        (2, {"device": "cuda:2"}, "device 'cuda:2': this machine has 2 usable GPUs"),
        (2, {"device_map": "balanced"}, "device 'balanced': expected cpu, cuda or cuda:N, or device_map=auto"),
        (2, {"device": "gpu"}, "device 'gpu': expected cpu, cuda or cuda:N, or device_map=auto"),
    ],
)
def test_refusals(gpus, count, given, words):
    gpus(count)
    with pytest.raises(ValueError, match=f"^{words}"):
        place(**given)


def test_several_processes_have_a_device_each(gpus, alone):
    gpus(2)
    alone.num_processes, alone.process_index, alone.device = 2, 1, torch.device("cuda:1")
    where = place()
    assert (where.device, where.device_map, where.share) == (torch.device("cuda:1"), "cuda:1", (1, 2))
    with pytest.raises(ValueError, match="device_map=auto with 2 processes"):
        place(device_map="auto")
