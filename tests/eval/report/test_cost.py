"""Cost by arithmetic: the formulas by hand, and what the layers of a model read under a plan or in a run."""

import pytest

from dycoke import attach, available, build
from dycoke.kv_cache.request import TAIL
from dycoke.lab.cost import (
    SHAPES,
    Tokens,
    formula_a,
    formula_b,
    kv_bytes,
    measured,
    planned,
    retained,
    retained_final,
    true_flops,
)
from dycoke.model_shape import Shape
from dycoke.plans import build_plan
from dycoke.types import Plan
from tests.eval.report.costs import FRAMES, FULL, PER_FRAME, T, flat, tokens_of
from tests.support import decode_small

TINY = Shape(layers=2, hidden=4, intermediate=8, heads=2, kv_heads=1, vocabulary=10)


def test_formulas_by_hand():
    tokens = Tokens((3, 2), (3, 1))
    # Layer by layer: four projections of 16, scores and values, two matrices of 32; the answer has two tokens.
    prefill = (3 * 64 + 2 * 9 * 4 + 3 * 64) + (2 * 64 + 2 * 4 * 4 + 2 * 64)
    step = (64 + 64 + 2 * (4 * 3 + 4 * 1.5)) + (64 + 64 + 2 * (4 * 1 + 4 * 1.5))
    assert formula_a(TINY, tokens, answer=2) == prefill + 2 * step
    assert formula_a(TINY, tokens, answer=0) == prefill
    # Keys and values are half as wide, and the MLP has three matrices.
    grouped = (3 * 48 + 2 * 9 * 4 + 3 * 96) + (2 * 48 + 2 * 4 * 4 + 2 * 96)
    assert formula_b(TINY, tokens) == grouped
    assert true_flops(TINY, tokens) == 2 * grouped
    assert true_flops(TINY, tokens, text=5) == true_flops(TINY, Tokens((8, 7), (8, 7)))


def test_true_flops_of_a_prefill():
    assert true_flops(SHAPES["7b"], tokens_of("full", 28)) / T == pytest.approx(97.64, abs=0.005)


def test_bytes_of_the_cache():
    """56 KiB a token in the 7B model at 16 bit, and the tokens a decode step leaves unread are still there."""
    shape = SHAPES["7b"]
    assert kv_bytes(shape, tokens_of("full", 28)) == 343 * 2**20 == FULL * 56 * 2**10
    assert kv_bytes(shape, tokens_of("full", 28), 4) == 2 * 343 * 2**20
    assert kv_bytes(shape, tokens_of("dycoke", 28)) == 2960 * 56 * 2**10
    assert kv_bytes(shape, tokens_of("fastv", 28, k=7)) == (7 * FULL + 21 * FULL // 2) * 2 * 2**10


def test_shares_retained():
    tokens = Tokens((100, 100, 60, 40), (100, 30, 20, 10))
    assert retained(tokens, 200) == 0.375
    assert retained_final(tokens, 200) == 0.05


def test_a_model_of_other_depth_is_refused():
    for cost in (formula_a, formula_b, true_flops, kv_bytes):
        with pytest.raises(ValueError, match="tokens of 3 layers for a model of 2"):
            cost(TINY, flat(5, 3))


@pytest.mark.parametrize("counts", [((1, 2), (1,)), ((), ()), ((1,), (1,), (1, 2))])
def test_tokens_need_one_count_a_layer(counts):
    with pytest.raises(ValueError, match="expected as many in prefill, decode and cached"):
        Tokens(*counts)


def test_a_plan_without_stages_reads_everything():
    assert planned(Plan(), 4, 9, 3) == Tokens((36,) * 3, (36,) * 3, (36,) * 3)


def test_dycoke_reads_less_from_its_layer_on_while_decoding():
    tokens = planned(build("dycoke", k=0.5, l=2, p=0.75).plan(), 4, 16, 5)
    assert tokens == Tokens((40,) * 5, (40, 40, 10, 10, 10), (40,) * 5)


def test_pruners_follow_each_other():
    tokens = planned(build("pdrop", layers=(1, 3)).plan(), 2, 16, 5)
    assert tokens == Tokens((32, 16, 16, 8, 8), (32, 16, 16, 8, 8), (32, 16, 16, 8, 8))


def test_a_share_of_what_entered_the_model_is_not_rounded_twice():
    """PyramidDrop's release counts every stage from the whole: int(1001 * .49), though int(700 * .7) is 489."""
    tokens = planned(build("pdrop", layers=(1, 3, 4), keep=0.7).plan(), 7, 143, 5)
    assert tokens.prefill == (1001, 700, 700, 490, 343)


@pytest.mark.parametrize(
    "budget,counts,mean",
    [(192, (300, 200, 118), 206.5), (128, (238, 108, 60), 144), (96, (246, 54, 28), 114), (64, (66, 34, 20), 82)],
)
def test_budgets_of_sparsevlm_are_its_published_lists(budget, counts, mean):
    """576 tokens in 32 layers, which read less from the ones behind 2, 6 and 15 on; a video gets the same shares."""
    plan = build("sparsevlm", budget=budget).plan()
    tokens = planned(plan, 1, 576, 32)
    assert tokens.prefill == (576,) * 3 + (counts[0],) * 4 + (counts[1],) * 9 + (counts[2],) * 16
    assert sum(tokens.prefill) / 32 == pytest.approx(mean, abs=0.6)
    video = planned(plan, 32, 196, 32)
    assert [video.prefill[layer] / 6272 for layer in (3, 7, 16)] == pytest.approx([n / 576 for n in counts], abs=2e-4)


def test_no_more_go_on_than_a_pruner_before_has_left():
    plan = build_plan({"inside": "fastv,k=1,r=0.8"})
    stages = build("pdrop", layers=(2, 3)).plan().inside
    tokens = planned(Plan(inside=(plan.inside, *stages)), 1, 100, 5)
    assert tokens.prefill == (100, 20, 20, 20, 20)


def test_a_pruner_that_evicts_empties_the_layers_before():
    """PruneVid's own stage inside, which keeps .4 behind layer 2."""
    tokens = planned(build_plan({"inside": {"name": "prunevid", "layer": 2}}), 2, 10, 5)
    assert tokens == Tokens((20, 20, 20, 8, 8), (8,) * 5, (8,) * 5)
    with_decode = build_plan({"inside": {"name": "prunevid", "layer": 2}, "decode": "dynamic_pruning,layer=1,p=0.5"})
    assert planned(with_decode, 2, 10, 5).decode == (8, 4, 4, 4, 4)


def test_decode_pruning_observes_what_a_pruner_before_it_let_go_on():
    plan = build_plan({"inside": "fastv,k=1,r=0.5", "decode": "dynamic_pruning,layer=3,p=0.5"})
    assert planned(plan, 2, 10, 5) == Tokens((20, 10, 10, 10, 10), (20, 10, 10, 5, 5))


def test_decode_pruning_before_a_pruner_depends_on_the_content():
    plan = build_plan({"inside": "fastv,k=3,r=0.5", "decode": "dynamic_pruning,layer=2,p=0.5"})
    with pytest.raises(ValueError, match=r"DynamicPruning on layers from 2 on.*depends on the content"):
        planned(plan, 2, 10, 5)
    everything = build_plan({"inside": "fastv,k=3,r=0.5", "decode": "dynamic_pruning,layer=2,p=0"})
    assert planned(everything, 2, 10, 5).decode == (20, 20, 20, 10, 10)


@pytest.mark.parametrize(
    "spec",
    [
        {"decode": "dynamic_pruning,layer=2,p=0.5"},
        {"inside": "pdrop,layers=[1,3]"},
        {"inside": "pdrop,layers=[1,3],keep=0.6"},
        {"inside": "prunevid,layer=1,alpha=0.5"},
        {"inside": "prunevid,layer=2,alpha=0.5", "decode": "dynamic_pruning,layer=2,p=0.4"},
        {"inside": "fastv,k=1,r=0.3", "decode": "dynamic_pruning,layer=3,p=0.5"},
    ],
    ids=lambda spec: "-".join(spec[stage].partition(",")[0] for stage in spec),
)
def test_a_model_reads_and_holds_what_its_plan_says(spec):
    """Six visual tokens among six others, three decode steps, which read two of the answer on average."""
    model, plan = decode_small.qwen(), build_plan(spec)
    with attach(model, plan, visual=decode_small.VISUAL) as run:
        decode_small.generate(model)
    cache, layers = run.report.cache, model.config.num_hidden_layers
    tokens = planned(plan, 1, 6, layers)
    assert [tokens.prefill[entered.layer] for entered in run.report.inside] == [e.tokens for e in run.report.inside]
    below, above = tokens.decode[: cache.first_layer], tokens.decode[cache.first_layer :]
    assert cache.read_below == pytest.approx(sum(below) / len(below) + 6 + 2)
    assert above == () or cache.read_from == pytest.approx(sum(above) / len(above) + 6 + 2)
    text = Tokens((6 + TAIL,) * layers, (0,) * layers)
    shape = Shape.of(model.config)
    assert cache.device_bytes == kv_bytes(shape, tokens, 4) + kv_bytes(shape, text, 4)


CONTENT = {"framefusion": "FrameFusion", "holitom": "HoliTomOuter", "prunevid": "PruneVidOuter"}
CONTENT |= {"prumerge": "PruMerge", "prumerge_plus": "PruMergePlus"}


@pytest.mark.parametrize("name", available())
def test_every_method_at_its_defaults_has_a_cost_or_says_why_not(name):
    plan = build(name).plan()
    if name in CONTENT:
        with pytest.raises(ValueError, match=rf"^{CONTENT[name]}: how many .* depends on the content of the video"):
            planned(plan, FRAMES, PER_FRAME, 28)
        return
    tokens = planned(plan, FRAMES, PER_FRAME, 28)
    assert all(tokens.prefill[0] >= left > 0 for left in tokens.prefill)
    assert (tokens == planned(Plan(), FRAMES, PER_FRAME, 28)) == (name == "full")


@pytest.mark.parametrize(
    "spec,message",
    [
        ({"inside": "fastv,k=4"}, "layer 4: expected 0 to 3, because the model has 4 layers"),
        ({"decode": "dynamic_pruning,layer=4"}, "layer 4: expected 1 to 3, because the model has 4 layers"),
    ],
)
def test_layers_the_model_does_not_have(spec, message):
    with pytest.raises(ValueError, match=message):
        planned(build_plan(spec), 4, 9, 4)


def test_a_video_too_short_for_the_plan():
    with pytest.raises(ValueError, match="TemporalMerge needs at least 5 frames, got 4"):
        planned(build("dycoke", variant="official").plan(), 4, 9, 4)


def test_tokens_measured_in_a_run():
    usage = {"visual_kept": 40.5, "inside": [[1, 20.25], [3, 5.0]], "decode": None}
    counts = (40.5, 20.25, 20.25, 5.0)
    assert measured(usage, 4) == Tokens(counts, counts, counts)
    usage["decode"] = {"first_layer": 2, "visual_read": 8.5}
    assert measured(usage, 4) == Tokens(counts, (40.5, 20.25, 8.5, 5.0), counts)


def test_a_run_measures_what_its_plan_promised():
    plan = build("dycoke", k=0.5, l=2, p=0.75).plan()
    usage = {"visual_kept": 40.0, "inside": [], "decode": {"first_layer": 2, "visual_read": 10.0}}
    assert measured(usage, 5, plan) == planned(plan, 4, 16, 5)


def test_the_plan_of_a_run_tells_what_evicts():
    plan = build_plan({"inside": {"name": "prunevid", "layer": 2}})
    usage = {"visual_kept": 20.0, "inside": [[3, 8.0]], "decode": None}
    assert measured(usage, 5, plan) == planned(plan, 2, 10, 5)
    assert measured(usage, 5).cached == (20, 20, 20, 8, 8)


@pytest.mark.parametrize(
    "usage,message",
    [
        ({"inside": [[4, 1.0]], "decode": None}, "layer 4: expected 0 to 3"),
        ({"inside": [], "decode": {"first_layer": 4, "visual_read": 1.0}}, "layer 4: expected 1 to 3"),
    ],
)
def test_usage_of_a_deeper_model(usage, message):
    with pytest.raises(ValueError, match=message):
        measured({"visual_kept": 9.0, **usage}, 4)
