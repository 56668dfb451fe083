"""Stores and graphs of sizes: who shares them, what they take over, and where their tensors lie."""

import weakref

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

import dycoke
from dycoke.engine import buckets as engine_module
from dycoke.engine import template
from dycoke.engine.weights import JoinedWeights
from dycoke.methods import DynamicPruning
from tests.engine.asking import ask, generate, method
from tests.support.decode_small import PLAN, VISUAL, qwen
from tests.support.subjects import PROMPTS, SUBJECTS, Clip


def test_weights_that_move_are_found():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        generate(model)
        model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(-model.model.layers[0].mlp.up_proj.weight)
        for weight in model.parameters():
            weight.data = 1.5 * weight.data
        ours = generate(model)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        assert torch.equal(ours, generate(model))


def test_buckets():
    assert [template.row_bucket(n) for n in (1, 3, 64, 65, 130)] == [1, 4, 64, 128, 192]
    assert [template.column_bucket(n) for n in (1, 256, 257, 2990, 6302, 9000)] == [256, 256, 512, 3072, 6656, 9216]
    assert [template.tail_bucket(n) for n in (1, 64, 65)] == [64, 64, 128]


def test_stores_are_shared_by_prompts_of_about_one_length():
    subject = SUBJECTS["llava"]()
    with dycoke.attach(subject.model, method("dycoke"), engine="on"):
        engine = subject.model.generate._engine
        for kind in ("one_video", "text", "one_video"):
            ask(subject, PROMPTS[kind])
        assert len(engine._buckets) == 2  # with something to prune, and without


@pytest.mark.parametrize("name", ["dycoke", "fastv", "official"])
def test_a_graph_finds_its_tensors_where_they_were(name):
    """Taking a request moves nothing that a step reads or writes: a graph would go on at the old address."""
    subject = SUBJECTS["llava"]()
    plan = method("dycoke", variant="official") if name == "official" else method(name)
    with dycoke.attach(subject.model, plan, engine="on"):
        ask(subject, PROMPTS["one_video"])
        (bucket,) = subject.model.generate._engine._buckets.values()
        before = {where: each.data_ptr() for where, each in tensors(bucket)}
        ask(subject, PROMPTS["one_video"])
        after = {where: each.data_ptr() for where, each in tensors(bucket)}
    assert len(before) > 30
    assert after == before


def tensors(value, where: str = "", seen: set | None = None):
    """Every tensor that can be reached from a bucket by attributes, but for what a step makes anew."""
    seen = set() if seen is None else seen
    if id(value) in seen or where.endswith(("_listed", "pruned", "_rotated", "_weights")):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors(each, f"{where}[{key}]", seen)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from tensors(each, f"{where}[{number}]", seen)
    elif type(value).__module__.startswith("dycoke"):
        names = [*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", {})]
        for name in names:
            yield from tensors(getattr(value, name), f"{where}.{name}", seen)


@pytest.mark.parametrize("part", ["head bias", "rotary", "epsilon"])
def test_what_a_graph_takes_over_is_watched(part):
    model = qwen()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        generate(model)
        if part == "head bias":
            model.lm_head.bias = torch.nn.Parameter(torch.linspace(-9, 9, 32))
        elif part == "rotary":
            model.model.rotary_emb.inv_freq = 7 * model.model.rotary_emb.inv_freq
        else:
            model.model.norm.variance_epsilon = 1e4
            model.model.layers[0].input_layernorm.variance_epsilon = 1e4
        ours = generate(model)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        assert torch.equal(ours, generate(model))


def test_a_rotary_module_of_the_users_own_is_called():
    class Turned(Qwen2RotaryEmbedding):
        def forward(self, x, position_ids):
            cos, sin = super().forward(x, position_ids)
            return sin, cos

    model, found = qwen(), []
    for kind in (Qwen2RotaryEmbedding, Turned):
        model.model.rotary_emb.__class__ = kind
        for engine in ("on", "off"):
            with dycoke.attach(model, PLAN, visual=VISUAL, engine=engine) as run:
                found.append(generate(model))
                assert run.report.loop.startswith("engine" if engine == "on" else "stock")
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])


def test_a_bucket_that_does_not_fit_is_made_without_the_others_and_their_copies(monkeypatch):
    """What was half made is gone by then: the copy of joined weights above all."""
    model, alive, inner = qwen(), [], engine_module.Bucket
    copies = weakref.WeakSet()

    def joined(weights):
        made = JoinedWeights(weights)
        copies.add(made)
        return made

    def bucket(weights, make, pool, copy=None):
        alive.append((len(copies), copy is not None))
        if len(alive) == 2:
            raise torch.cuda.OutOfMemoryError
        return inner(weights, make, pool, copy)

    monkeypatch.setattr(engine_module, "JoinedWeights", joined)
    monkeypatch.setattr(engine_module, "Bucket", bucket)
    with dycoke.attach(model, PLAN, visual=VISUAL.expand(20, -1), engine="on"):
        rows = {"inputs_embeds": torch.ones(20, 12, 32), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        model.generate(**rows, max_new_tokens=2)
        long = model.generate(**rows, max_new_tokens=80)
        assert len(model.generate._engine._buckets) == 1
    assert alive == [(1, True), (1, True), (0, False)]
    with dycoke.attach(model, PLAN, visual=VISUAL.expand(20, -1), engine="off"):
        assert torch.equal(long, model.generate(**rows, max_new_tokens=80))


def test_a_policy_with_numbers_in_its_state():
    """Requests that differ in them do not share a graph, which would take the first one's over."""

    class Counted(DynamicPruning):
        def start(self, visual):
            state = super().start(visual)
            state.most = int(visual.sum())
            return state

        def step(self, state, attn):
            state.budget.fill_(state.most // 4)
            super().step(state, attn)

    subject = SUBJECTS["llava"]()
    found = []
    for engine in ("on", "off"):
        with dycoke.attach(subject.model, dycoke.Plan(decode=Counted(2, 0.5)), engine=engine):
            found.append([ask(subject, [[5, Clip(frames), 7]]) for frames in (8, 3, 8)])
    assert all(torch.equal(ours, stock) for ours, stock in zip(*found, strict=True))


def test_a_linear_of_other_weights_is_read_at_once():
    """Also by the first call behind the change, in which both a module and its weights are new."""
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        before = generate(model)
        old = model.model.layers[0].mlp.up_proj
        new = torch.nn.Linear(old.in_features, old.out_features, bias=False)
        new.weight = torch.nn.Parameter(-3 * old.weight)
        model.model.layers[0].mlp.up_proj = new
        ours = generate(model)
        assert run.report.loop == "engine"
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        assert torch.equal(ours, generate(model))
    assert not torch.equal(ours, before)


def test_a_module_without_a_weight_takes_the_stock_loop():
    class Halved(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, x):
            return self.base(x) / 2

    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        model.model.layers[0].mlp.up_proj = Halved(model.model.layers[0].mlp.up_proj)
        for _ in range(2):
            generate(model)
            assert run.report.loop == "stock: a Halved where Linear is served"
        model.model.layers[0].mlp.up_proj = model.model.layers[0].mlp.up_proj.base
        generate(model)
        assert run.report.loop == "engine"
