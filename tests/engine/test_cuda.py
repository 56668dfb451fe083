"""The engine on a GPU: graphs, and logits next to those of the stock loop."""

import copy

import pytest
import torch
from transformers import Qwen2Config

import dycoke
from dycoke import Plan
from dycoke.bases import KeepAll
from dycoke.bench.decode.model import build_model, make_prompt
from dycoke.bench.decode.setting import Setting
from dycoke.methods import DynamicPruning
from tests.core.test_cuda import OnGPU
from tests.engine.asking import ask, forced_logits, method
from tests.support.decode_small import qwen
from tests.support.subjects import PROMPTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ORDER = ("one_video", "batch", "text", "two_videos", "one_video", "batch")
WIDE = {"hf": {"hidden_size": 64}}  # heads of 16, the least that the kernels take
STEPS = 24
FURTHER = 1.2  # times as far from fp32 as the stock loop's logits, at most


@pytest.mark.parametrize("kind", ["llava", "hf"])
@pytest.mark.parametrize("name", ["full", "dycoke", "dynamic_pruning", "fastv", "holitom", "framefusion", "visionzip"])
def test_greedy_ids_in_fp32(kind, name):
    """Requests of several sizes in turn, through graphs that are recorded once and filled anew."""
    subject = OnGPU(kind, **WIDE.get(kind, {}))
    with dycoke.attach(subject.model, method(name)) as run:
        ours = [ask(subject, PROMPTS[prompts]) for prompts in ORDER]
        assert run.report.loop == "engine"
    with dycoke.attach(subject.model, method(name), engine="off"):
        for prompts, ids in zip(ORDER, ours, strict=True):
            assert torch.equal(ids, ask(subject, PROMPTS[prompts])), prompts


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=str)
def half_billion(request):
    """A language model of 0.5B shapes with random weights, the same in fp32, and a prompt behind merging."""
    setting = Setting.chosen(shape="0.5b", dtype=str(request.param).removeprefix("torch."))
    model = build_model(setting, "cuda")
    return model, copy.deepcopy(model).float(), make_prompt(model, setting.visual)


@pytest.mark.parametrize("pruned", [False, True])
def test_forced_logits(half_billion, pruned):
    """On given ids, our logits are as near to those in fp32 as the stock loop's are.

    Pruned columns are drawn by a hash: a choice by attention turns on the last bits of a random model.
    """
    model, exact, prompt = half_billion
    plan = Plan(before=KeepAll(), decode=DynamicPruning(3, 0.7, decode="random") if pruned else None)
    ids = torch.randint(0, 1000, (STEPS,), generator=torch.Generator().manual_seed(0)).cuda()

    def logits(model, engine):
        embeds = prompt.embeds.to(model.lm_head.weight.dtype)
        return forced_logits(model, ids, plan, engine, prompt.visual, inputs_embeds=embeds)

    truth = logits(exact, "off")
    ours, stock = ((logits(model, engine) - truth).abs() for engine in ("on", "off"))
    assert (logits(exact, "on") - truth).abs().max() < 1e-2
    assert ours.mean() < FURTHER * stock.mean(), (ours.mean(), stock.mean())
    assert (ours.mean(dim=(1, 2)) < 1.5 * FURTHER * stock.mean(dim=(1, 2))).all()  # at every step


def test_a_step_never_waits(half_billion):
    """Between its first and its last token the loop reads nothing of the device but what has arrived."""
    model, _, prompt = half_billion
    plan = Plan(decode=DynamicPruning(3, 0.7))
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 16}
    with dycoke.attach(model, plan, visual=prompt.visual):
        model.generate(inputs_embeds=prompt.embeds, **options)
        loop = pytest.importorskip("dycoke.engine.generate")
        inner, seen = loop.decode, []

        def watched(*args):
            torch.cuda.set_sync_debug_mode("error")
            try:
                seen.append(inner(*args))
            finally:
                torch.cuda.set_sync_debug_mode("default")
            return seen[-1]

        loop.decode = watched
        try:
            model.generate(inputs_embeds=prompt.embeds, **options)
        finally:
            loop.decode = inner
    assert seen == [15]


def test_sampling_on_the_device():
    """Draws follow the model's distribution: the share of each first token, over many rows."""
    config = Qwen2Config(
        vocab_size=16, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=None,
    )  # fmt: skip
    model = qwen(config).cuda()
    embeds = torch.randn(1, 12, 32, device="cuda")
    visual = torch.zeros(1, 12, dtype=torch.bool, device="cuda")
    plan = Plan(before=KeepAll())
    options = {"max_new_tokens": 3, "do_sample": True, "num_return_sequences": 4096, "top_k": 0, "pad_token_id": 0}
    with dycoke.attach(model, plan, visual=visual) as run:
        torch.manual_seed(0)
        ids = model.generate(inputs_embeds=embeds, **options)
        assert run.report.loop == "engine"
    wanted = model(inputs_embeds=embeds).logits[0, -1].float().softmax(-1)
    share = torch.bincount(ids[:, 0], minlength=16) / len(ids)
    assert (share - wanted).abs().max() < 0.03


def test_a_slow_choice_is_waited_for():
    """Columns are chosen beside the layers that do not read them, at every step anew."""

    class Slow(DynamicPruning):
        def step(self, state, attn):
            torch.cuda._sleep(10_000_000)  # several times what the layers in between take
            super().step(state, attn)

    subject, found = OnGPU("llava"), []
    for engine in ("on", "off"):
        with dycoke.attach(subject.model, Plan(decode=Slow(2, 0.5, refresh=1.0)), engine=engine) as run:
            found.append(ask(subject, PROMPTS["batch"], eos_token_id=None))
            assert run.report.loop.startswith("engine" if engine == "on" else "stock")
    assert torch.equal(*found)


def test_a_policy_that_replaces_its_state_is_refused():
    class Replaces(DynamicPruning):
        def step(self, state, attn):
            super().step(state, attn)
            state.keep = state.keep.clone()

    subject = OnGPU("llava")
    said = pytest.raises(ValueError, match=r"Replaces.step replaced what is in its state; expected: tensors that are")
    with dycoke.attach(subject.model, Plan(decode=Replaces(2, 0.5))), said:
        ask(subject, PROMPTS["one_video"])
