"""Corners of the stage inside the language model: rows that change places, several pruners, odd padding."""

import pytest
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import dycoke
from dycoke.methods.fastv import FastV
from dycoke.methods.pdrop import Stage
from dycoke.ops.attend.last_row import rotary_row
from dycoke.types import Plan
from tests.core.stages import test_inside as inside
from tests.support.decode_oracle import Everything, OneShot, Paper
from tests.support.decode_subjects import generate, language_model, prompt
from tests.support.inside_oracle import Rule, answer

ROWS = ("ttvvvvvvvvvvtttt", "tvvvvvvtt", "ttt", "vvvtvvvvttt")
TOKENS = [3, 5, 7, 2]


class Evicting(FastV):
    """Pruner: FastV, but what leaves is forgotten by the layers before, too."""

    evicts = True


class EvictingRule(inside.FastV):
    evicts = True


class Silent:
    """Pruner that looks and lets everything go on."""

    layer = 2

    def prune(self, hidden, visual, scores):
        return None


class SilentRule(Rule):
    def keep(self, view):
        return view.visual


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("layer", [None, 1, 3])
@pytest.mark.parametrize("name", ["fastv", "pdrop", "prunevid"])
@torch.no_grad()
def test_rows_change_places(name, layer):
    """Beams move within their own prompt's; any other order of rows must carry all that is known of them, too."""
    model, given = language_model("qwen2", observer=1, gain=6.0), prompt(*ROWS)
    pruning = None if layer is None else dycoke.build("dynamic_pruning", layer=layer, p=0.5, decode="one_shot")
    rows, end = torch.tensor([2, 3, 0, 1]), given.mask.sum(1, keepdim=True)
    plan, got = Plan(inside=inside.inside(name), decode=pruning), []
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        out = model(inputs_embeds=given.embeds, attention_mask=given.mask, position_ids=positions(given.mask))
        cache, entered = out.past_key_values, run.report.inside
        for t, token in enumerate(TOKENS):
            if t == 2:
                cache.reorder_cache(rows)
                end = end[rows]
            ids = torch.full((len(ROWS), 1), token)
            got.append(model(input_ids=ids, past_key_values=cache, position_ids=end + t).logits[:, -1])
        keeps = run.report.keeps
    for number, row in enumerate(rows.tolist()):
        padding, embeds, visual = given.row(row)
        policy = Everything() if layer is None else OneShot(0.5)
        told = [*TOKENS, 0]
        _, want = answer(model, embeds, visual, inside.METHODS[name][1], 5, layer=layer, policy=policy, ids=told)
        logits = torch.stack([got[0][row], got[1][row], got[2][number], got[3][number]])
        torch.testing.assert_close(logits.double(), want.logits[1:], atol=2e-5, rtol=0)
        if layer is not None:
            width = given.mask.shape[1]
            before, behind = ([c for c in read if c < width] for read in (keeps[1][row], keeps[2][number]))
            held = [each.columns[row] for each in entered if each.layer <= layer or name == "prunevid"]
            assert before == behind and set(behind) <= set(held[-1] if held else range(padding, width))
            assert {padding + c for c in range(len(embeds)) if c not in visual} <= set(behind)


@pytest.mark.parametrize("layer", [None, 1, 3, 4])
@pytest.mark.parametrize(
    "pruners,rules",
    [
        ((Evicting(1, 0.5), Evicting(3, 0.5)), {1: EvictingRule(0.5), 3: EvictingRule(0.5)}),
        (
            (Evicting(1, 0.5), FastV(2, 0.3), FastV(4, 0.3)),
            {1: EvictingRule(0.5), 2: inside.FastV(0.3), 4: inside.FastV(0.3)},
        ),
        ((Evicting(1, 0.5), Silent(), FastV(4, 0.5)), {1: EvictingRule(0.5), 2: SilentRule(), 4: inside.FastV(0.5)}),
        ((Stage(1, 0.5), Silent()), {**inside.pdrop({1: 0.5}), 2: SilentRule()}),
    ],
    ids=["evict twice", "evict, then drop", "evict, look, drop", "renumber, look"],
)
def test_several_pruners(pruners, rules, layer):
    model, given = language_model("qwen2", observer=1, gain=6.0), prompt(*ROWS)
    pruning = None if layer is None else dycoke.build("dynamic_pruning", layer=layer, p=0.5)
    with dycoke.attach(model, Plan(inside=pruners, decode=pruning), visual=given.visual):
        _, steps = generate(model, given, 3)
    for number in range(len(ROWS)):
        _, embeds, visual = given.row(number)
        policy = Everything() if layer is None else Paper(0.5)
        _, want = answer(model, embeds, visual, rules, 3, layer=layer, policy=policy)
        torch.testing.assert_close(steps[number].double(), want.logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_what_an_earlier_pruner_dropped_is_evicted_with_the_rest():
    """Every layer is left with the columns that the evicting one lets through, and reads the same of them."""
    model, given = language_model("qwen2"), prompt("tvvvvvvvvvvt")
    logits, bytes_held = [], []
    for pruners in ((FastV(1, 0.4), FastV(2, 0.5), Evicting(4, 0.34)), (FastV(1, 0.4), FastV(2, 0.5), FastV(4, 0.34))):
        with dycoke.attach(model, Plan(inside=pruners), visual=given.visual, trace=True) as run:
            out = model(inputs_embeds=given.embeds, position_ids=torch.arange(12)[None])
            (left,) = run.report.inside[-1].columns
            request = out.past_key_values.layers[0].request
            held = [(layer.entries.keys, layer.entries.values) for layer in request.layers]
            bytes_held.append([keys.shape[2] for keys, _ in held])
            logits.append((left, held, [each.columns[0] for each in run.report.inside]))
    assert bytes_held == [[4] * 5, [12, 8, 5, 5, 4]]
    (left, evicted, _), (same, whole, entered) = logits
    assert left == same
    holds = [list(range(12)), entered[0], entered[1], entered[1], entered[2]]
    for layer, columns in enumerate(holds):
        at = [columns.index(column) for column in left]
        for few, many in zip(evicted[layer], whole[layer], strict=True):
            torch.testing.assert_close(few, many[:, :, at])


@torch.no_grad()
def test_padding_behind_the_prompt_that_the_mask_calls_visual():
    given, model = prompt(ROWS[0]), language_model("qwen2", observer=1, gain=6.0)
    behind = torch.cat([given.embeds, torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(1))], 1)
    mask, visual = pad(given.mask, (0, 3)), pad(given.visual, (0, 3), value=True)
    for name in ("fastv", "pdrop", "sparsevlm", "holitom", "prunevid"):
        got = []
        with dycoke.attach(model, Plan(inside=inside.inside(name)), visual=visual) as run:
            out = model(inputs_embeds=behind, attention_mask=mask, position_ids=torch.arange(19)[None])
            for t, token in enumerate(TOKENS[:2]):
                place = torch.tensor([[16 + t]])
                ids = torch.tensor([[token]])
                got.append(model(input_ids=ids, past_key_values=out.past_key_values, position_ids=place).logits[0, -1])
            tokens = [each.tokens for each in run.report.inside]
        _, columns = given.row(0)[1:]
        prefill, want = answer(model, given.embeds[0], columns, inside.METHODS[name][1], 3, ids=[*TOKENS[:2], 0])
        torch.testing.assert_close(torch.stack(got).double(), want.logits[1:], atol=2e-5, rtol=0)
        assert tokens == [len(set(prefill.entered[layer]) & set(columns)) for layer in inside.METHODS[name][1]]


@pytest.mark.parametrize("name", ["fastv", "pdrop", "holitom"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_that_lose_more_than_others_without_a_mask(attention, name):
    """No row is padded until tokens leave, and what then fills a row up must not be seen."""
    model, given = language_model("qwen2", observer=1, gain=6.0), prompt("tttttttttttt", "tvvvvvvvvvvt", "ttttvvvvtttt")
    model.set_attn_implementation(attention)
    with dycoke.attach(model, Plan(inside=inside.inside(name)), visual=given.visual):
        logits = model(inputs_embeds=given.embeds).logits
    for number in range(len(given.embeds)):
        _, embeds, visual = given.row(number)
        want, _ = answer(model, embeds, visual, inside.METHODS[name][1], 1)
        torch.testing.assert_close(logits[number, -len(want.logits) :].double(), want.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_every_slot_of_a_narrowed_mask_attends_to_one(attention):
    """Attention over nothing is not a number in some kernels, and would spread from padding."""
    model, given, masks = language_model("qwen2"), prompt(*ROWS), []
    model.set_attn_implementation(attention)
    hook = model.model.layers[4].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with dycoke.attach(model, Plan(inside=inside.inside("fastv")), visual=given.visual):
        model(inputs_embeds=given.embeds, attention_mask=given.mask)
    hook.remove()
    seen = masks[0] if masks[0].dtype == torch.bool else masks[0] == 0
    assert seen.any(-1).all() and not seen.all()


@torch.no_grad()
def test_rows_without_visual_tokens_change_places():
    """Nothing is chosen for them, so what is read of each is known from the prompt alone."""
    model, given = language_model("qwen2"), prompt("tttttt", "ttt")
    plan, ids = Plan(decode=dycoke.build("dynamic_pruning", layer=2, p=0.5)), torch.tensor([[3], [3]])
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        cache = model(inputs_embeds=given.embeds, attention_mask=given.mask).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        model(input_ids=ids, past_key_values=cache, position_ids=given.mask.sum(1, keepdim=True).flip(0))
        assert run.report.keeps == [[[3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]]]


def flash(module, query, key, value, attention_mask, scaling, position_ids=None, **kwargs):
    """What flash attention makes of a 2-D mask: causal, among slots that are no padding."""
    assert attention_mask is None or attention_mask.shape == (len(query), query.shape[2])
    if module.layer_idx >= 2:
        assert position_ids is None  # gaps in them would be borders of packed samples
    real = torch.ones(len(query), query.shape[2]) if attention_mask is None else attention_mask
    itself = torch.eye(query.shape[2], dtype=torch.bool)
    mask = (real.bool()[:, None, None, :] | itself) & torch.ones_like(itself).tril()
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", ["fastv", "pdrop"])
@torch.no_grad()
def test_flat_masks(monkeypatch, name, padded):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    model = language_model("qwen2", observer=1, gain=6.0)
    given = prompt(*ROWS) if padded else prompt("tvvvvvvvvvvt", "ttttvvvvtttt")
    model.config._attn_implementation = "flash_attention_2"
    pruners, rules = {
        "fastv": (FastV(2, 0.5), {2: inside.FastV(0.5)}),
        "pdrop": ((Stage(2, 0.5), Stage(4, 0.25)), inside.pdrop({2: 0.5, 4: 0.25})),
    }[name]
    with dycoke.attach(model, Plan(inside=pruners), visual=given.visual):
        _, steps = generate(model, given, 3)
    for number in range(len(given.embeds)):
        _, embeds, visual = given.row(number)
        _, want = answer(model, embeds, visual, rules, 3)
        torch.testing.assert_close(steps[number].double(), want.logits, atol=2e-5, rtol=0)


class Blind(Silent):
    """Pruner that asks for no attention, and notes what it gets."""

    observes = "nothing"

    def __init__(self, layer: int) -> None:
        self.layer, self.given = layer, []

    def prune(self, hidden, visual, scores):
        self.given.append((hidden.shape[:2], scores))


@torch.no_grad()
def test_one_that_observes_nothing_is_given_zeros():
    """Also behind one that did observe, and at the first layer."""
    model, given, first, later = language_model("qwen2"), prompt(*ROWS), Blind(0), Blind(3)
    with dycoke.attach(model, Plan(inside=(first, FastV(2, 0.5), later)), visual=given.visual):
        model(inputs_embeds=given.embeds, attention_mask=given.mask)
    for pruner in (first, later):
        ((shape, scores),) = pruner.given
        assert scores.shape == shape and scores.dtype == torch.float32 and not scores.any()


def test_columns_are_counted_by_the_layers_that_hold_them():
    model, given = language_model("qwen2"), prompt("tvvvvvvvvvvt")
    plan = Plan(inside=FastV(2, 0.5), decode=dycoke.build("dynamic_pruning", layer=3, p=0.5, decode="one_shot"))
    with dycoke.attach(model, plan, visual=given.visual) as run:
        generate(model, given, 3)
        report = run.report.cache
    # Two layers hold 12 columns and one 7, of which layers from 3 on read the text and 2; the answer's are 1, then 2.
    assert report.read_below == pytest.approx((12 + 12 + 7) / 3 + 1.5)
    assert report.read_from == 2 + 2 + 1.5 and report.selections == 1


def test_what_a_step_reads_is_told_of_the_first_layer_that_reads_less():
    model, given = language_model("qwen2"), prompt("tvvvvvvvvvvt")
    plan = Plan(inside=FastV(4, 0.5), decode=dycoke.build("dynamic_pruning", layer=2, p=0.2))
    with dycoke.attach(model, plan, visual=given.visual, trace=True) as run:
        generate(model, given, 2)
        ((read,),) = run.report.keeps
    assert len(read) == 2 + 8 + 1  # text, and of ten visual columns those chosen; layer 4 holds five of them at most


def test_sparsevlm_listens_to_fourteen_heads():
    """Of sixteen, the two that look at visual tokens least are not heard, whatever they attend to."""
    attention = torch.zeros(1, 16, 4)
    visual = torch.tensor([[False, True, True, True]])
    attention[0, :, 1] = 0.5
    attention[0, 3] = torch.tensor([0.9, 0.0, 0.1, 0.0])
    attention[0, 15] = torch.tensor([0.8, 0.0, 0.0, 0.2])
    attention[0, 7] = torch.tensor([0.0, 0.0, 0.28, 0.0])
    (pruner, *_) = dycoke.build("sparsevlm", layers=(0, 1, 2)).plan().pruners
    scores = pruner.join(attention, visual, torch.tensor([[1.0, 1.0, 1.0, 0.5]]))
    # Divided by the rotary score, head 15 has .4 on visual tokens and is heard in place of head 7 with .28.
    want = torch.tensor([[0.8, 13 * 0.5, 0.0, 0.4]]) / 14
    torch.testing.assert_close(scores, want)


def test_what_rotary_embedding_alone_scores():
    """A query of ones against keys of ones, as attention scores them."""
    angles = torch.tensor([0.0, 0.3, 1.0])[None, :, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    got = rotary_row(angles.cos(), angles.sin(), torch.tensor([2]))
    apart = torch.tensor([1.0, 0.7, 0.0])
    torch.testing.assert_close(got, (2 * apart.cos() + 2 * (0.1 * apart).cos())[None] / 2)
