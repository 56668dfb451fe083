"""Queries, keys and values as one product for many rows: who gets them, and that changed weights are seen."""

import pytest
import torch

import dycoke
from dycoke.engine import weights as joined
from dycoke.engine.weights import Weights
from tests.support.decode_small import PLAN, VISUAL, qwen
from tests.support.decode_stores import DEVICE

ROWS = 20  # a bucket of 32


def ask(model, rows: int = ROWS, **more) -> torch.Tensor:
    embeds = torch.randn(rows, VISUAL.shape[1], 32, generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **more}
    return model.generate(inputs_embeds=embeds.to(DEVICE), **options)


def buckets(model) -> list:
    return list(model.generate._engine._buckets.values())


def projections(model) -> list:
    return [getattr(layer.self_attn, name) for layer in model.model.layers for name in ("q_proj", "k_proj", "v_proj")]


def test_many_rows_share_a_copy_and_few_need_none():
    model = qwen().to(DEVICE)
    with dycoke.attach(model, PLAN, visual=VISUAL.expand(ROWS, -1), engine="on"):
        ask(model)
        ask(model, max_new_tokens=80)
        first, second = buckets(model)
        assert first.joined is second.joined is not None
        assert all(len(layer.qkv) == 1 for layer in first.joined.weights.layers)
    with dycoke.attach(model, PLAN, visual=VISUAL.expand(16, -1), engine="on"):
        ask(model, 16)
        (bucket,) = buckets(model)
        assert bucket.joined is None
    weights = Weights.of(model.model, model.lm_head)
    assert not joined.worth_joining(weights, 16) and joined.worth_joining(weights, 17)


@pytest.mark.parametrize("plan", [PLAN, None], ids=["pruned", "full"])
@pytest.mark.parametrize("biased", ["all", "some", "none"])
def test_ids_of_the_stock_loop_also_where_weights_change(plan, biased):
    model = qwen().to(DEVICE)
    for number, part in enumerate(projections(model)):
        if biased == "none" or (biased == "some" and number % 3 == 1):
            part.bias = None
    plan, visual = plan or dycoke.build("full"), VISUAL.expand(ROWS, -1)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = {}
    for engine in ("on", "off"):
        model.load_state_dict(weights)
        with dycoke.attach(model, plan, visual=visual, engine=engine) as run:
            before = ask(model)
            for part in projections(model):  # as adapters are merged: past the counters of their versions
                part.weight.data.mul_(-1.5)
                if part.bias is not None:
                    part.bias.data.add_(0.5)
            found[engine] = before, ask(model)
            assert run.report.loop.startswith("engine" if engine == "on" else "stock")
            assert engine == "off" or buckets(model)[0].joined is not None
    assert not torch.equal(*found["on"])
    for ours, stock in zip(found["on"], found["off"], strict=True):
        assert torch.equal(ours, stock)


@pytest.mark.parametrize(("spare", "worth"), [(0, True), (-1, False)])
def test_a_copy_above_its_share_of_the_gpu_is_not_made(monkeypatch, spare, worth):
    model = qwen()
    weights = Weights.of(model.model, model.lm_head)
    copied = sum(part.weight.nbytes for part in projections(model))
    properties = type("Properties", (), {"total_memory": round(copied / joined.SHARE) + spare})
    monkeypatch.setattr(Weights, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert joined.worth_joining(weights, 64) == worth
