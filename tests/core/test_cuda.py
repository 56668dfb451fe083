"""What only a GPU can show. Skipped without one."""

import pytest
import torch

import dycoke
from dycoke.families.llava.adapter import LlavaAdapter
from dycoke.families.llava_onevision.adapter import HFLlavaOnevisionAdapter
from dycoke.ops.tokens.temporal_merge import temporal_merge, temporal_merge_torch
from tests.support.subjects import PROMPTS, SUBJECTS, greedy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


ADAPTERS = {"llava": LlavaAdapter, "hf": HFLlavaOnevisionAdapter}


class OnGPU:
    """A subject whose model and inputs are on the GPU."""

    def __init__(self, name: str, **sizes: int) -> None:
        self._subject = SUBJECTS[name](**sizes)
        self.model = self._subject.model.cuda()
        self.grid, self.returns_prompt = self._subject.grid, self._subject.returns_prompt
        self.loose = self._subject.loose

    def inputs(self, prompts):
        return {key: _cuda(value) for key, value in self._subject.inputs(prompts).items()}


def _cuda(value):
    if isinstance(value, torch.Tensor):
        return value.cuda()
    return [_cuda(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("merge", [temporal_merge, temporal_merge_torch])
@pytest.mark.parametrize("frames", [1, 6, 32])
def test_merging_never_waits_for_the_device(merge, frames):
    x = torch.randn(frames, 196, 512, device="cuda", dtype=torch.bfloat16)
    merge(x, 58)  # the first call compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        merge(x, 58)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["llava", "hf"])
@pytest.mark.parametrize("prompts", ["one_video", "batch"])
def test_between_the_projector_and_the_language_model_nothing_waits_for_the_device(name, prompts, monkeypatch):
    """What the adapters do there: compressing, packing and placing of tokens, without decode pruning's bookkeeping."""
    subject, adapter = OnGPU(name), ADAPTERS[name]
    for method in ("video", "packed", "prefill_inputs") if name == "llava" else ("prefill_inputs",):
        monkeypatch.setattr(adapter, method, _guarded(getattr(adapter, method)))
    with dycoke.attach(subject.model, dycoke.build("dycoke", decode="off")) as run, torch.no_grad():
        subject.model(**subject.inputs(PROMPTS[prompts]))  # compiles the kernels
        guard["on"] = True
        try:
            subject.model(**subject.inputs(PROMPTS[prompts]))
        finally:
            guard["on"] = False
        assert run.report.videos


guard = {"on": False}


def _guarded(function):
    """The function, in which to wait for the device is an error while the guard is on."""

    def call(*args, **kwargs):
        if not guard["on"]:
            return function(*args, **kwargs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return call


def test_merging_in_a_graph_equals_the_reference():
    x = torch.randn(32, 196, 3584, device="cuda", dtype=torch.bfloat16)
    temporal_merge(x, 58)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        embeds, index = temporal_merge(x, 58)
    x.copy_(torch.randn_like(x))  # a graph must follow what is in its input, not what was captured
    embeds.fill_(float("nan"))
    index.fill_(-1)
    graph.replay()
    want, slots = temporal_merge_torch(x, 58)
    same = index == slots
    assert same.float().mean() > 0.999  # near-ties may change places: the sums run in another order
    assert torch.equal(embeds[same], want[same])
    assert torch.equal(embeds, x.flatten(0, 1)[index])


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_full_is_the_untouched_model_and_the_report_is_complete(name):
    subject = OnGPU(name)
    ids = greedy(subject, PROMPTS["batch"])
    with dycoke.attach(subject.model, dycoke.build("full")) as run:
        assert torch.equal(greedy(subject, PROMPTS["batch"]), ids)
    stages = run.report.stages
    assert all(stage.ms > 0 and stage.peak_bytes > 0 for stage in stages.values())
    with dycoke.attach(subject.model, dycoke.build("dycoke")) as run:
        greedy(subject, PROMPTS["batch"])
    assert run.report.stages["compress"].tokens < stages["compress"].tokens


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_a_static_cache_which_generate_would_compile_for(name):
    subject = OnGPU(name)
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        want = greedy(subject, PROMPTS["batch"])
        assert torch.equal(greedy(subject, PROMPTS["batch"], cache_implementation="static"), want)
