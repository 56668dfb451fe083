"""The decode oracle itself, against transformers: its arithmetic, what layers read, and what policies choose."""

import pytest
import torch

from tests.support.decode_oracle import Everything, Frozen, OneShot, Paper, Published, Replay, decode
from tests.support.decode_subjects import FAMILIES, LAYERS, generate, language_model, prompt

PROMPT = "ttvvvvvvvvvvvvtvvvvvvvvtt"
LAYER, COUNT = 2, 8


def masked(model, embeds, trace, layer):
    """Logits [n, vocab] of one uncached eager call whose layers from `layer` on see what the steps read; attentions."""
    length = len(embeds)
    whole = torch.cat([embeds, model.get_input_embeddings()(torch.tensor(trace.ids[:-1]))])
    mask = torch.full((len(whole), len(whole)), torch.finfo(torch.float32).min).triu(1)
    for number, step in enumerate(trace.steps):
        dropped = [column for column in range(length + number + 1) if column not in step.columns]
        mask[length + number, dropped] = torch.finfo(torch.float32).min
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask[None, None]}), with_kwargs=True
        )
        for block in model.model.layers[layer:]
    ]
    model.set_attn_implementation("eager")
    out = model(inputs_embeds=whole[None], output_attentions=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    return out.logits[0, length - 1 :], out.attentions


def visual_slots(given):
    return given.visual[0].nonzero().flatten().tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_greedy_decoding(family):
    model, given = language_model(family), prompt(PROMPT)
    ids, logits = generate(model, given, COUNT)
    trace = decode(model, given.embeds[0], visual_slots(given), LAYER, Everything(), COUNT)
    assert trace.ids == ids[0].tolist() and len(set(trace.ids)) > 2
    torch.testing.assert_close(trace.logits.float(), logits[0], atol=1e-5, rtol=0)
    assert [step.columns for step in trace.steps] == [list(range(len(PROMPT) + n)) for n in range(1, COUNT)]


@pytest.mark.parametrize("layer", [1, 2, LAYERS - 1])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_frozen_is_masking(family, layer):
    model, given = language_model(family), prompt(PROMPT)
    kept = visual_slots(given)[1::3]
    trace = decode(model, given.embeds[0], visual_slots(given), layer, Frozen(kept), COUNT)
    text = [slot for slot, kind in enumerate(PROMPT) if kind == "t"]
    new = [len(PROMPT) + n for n in range(COUNT - 1)]
    assert [step.columns for step in trace.steps] == [sorted(kept + text + new[: n + 1]) for n in range(COUNT - 1)]
    torch.testing.assert_close(trace.logits.float(), masked(model, given.embeds[0], trace, layer)[0], atol=1e-5, rtol=0)
    whole = decode(model, given.embeds[0], visual_slots(given), layer, Everything(), COUNT, ids=trace.ids)
    assert torch.equal(whole.logits[0], trace.logits[0])  # prefill reads everything
    assert (whole.logits[1:] - trace.logits[1:]).abs().amax(1).min() > 1e-2


@pytest.mark.parametrize("policy", [lambda: Published(0.7), lambda: Paper(0.7, 1.0), lambda: OneShot(0.5)])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_policies_see_the_observers_attention(family, policy):
    """Each step's attention is transformers' own, of the layer below L, and the columns read are those it masks."""
    model, given = language_model(family, observer=LAYER - 1, gain=2.0), prompt(PROMPT)
    slots = visual_slots(given)
    chooser = policy()
    trace = decode(model, given.embeds[0], slots, LAYER, chooser, COUNT)
    logits, attentions = masked(model, given.embeds[0], trace, LAYER)
    torch.testing.assert_close(trace.logits.float(), logits, atol=1e-5, rtol=0)
    want = attentions[LAYER - 1][0].mean(0)[len(PROMPT) :, slots]
    got = torch.tensor([step.attention for step in trace.steps])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    dropped = sorted(set(slots) - set(trace.steps[0].columns))
    scored = len(slots) - isinstance(chooser, Published)
    weakest = want[0, :scored].argsort()[: scored - int(scored * (1 - chooser.p))]
    assert dropped == sorted(slots[n] for n in weakest)


def test_given_ids_and_positions():
    model, given = language_model("qwen2"), prompt(PROMPT)
    ids, far = [3, 1, 4, 1, 5], list(range(40, 40 + len(PROMPT)))
    trace = decode(model, given.embeds[0], [], LAYER, Everything(), len(ids), ids=ids)
    whole = torch.cat([given.embeds[0], model.get_input_embeddings()(torch.tensor(ids[:-1]))])
    assert trace.ids == ids
    torch.testing.assert_close(trace.logits.float(), model(inputs_embeds=whole[None]).logits[0, -5:], atol=1e-5, rtol=0)
    moved = decode(model, given.embeds[0], [], LAYER, Everything(), len(ids), ids=ids, positions=far)
    torch.testing.assert_close(moved.logits, trace.logits, atol=1e-4, rtol=0)  # only distances count
    gap = [*far[:-1], far[-1] + 9]
    apart = decode(model, given.embeds[0], [], LAYER, Everything(), len(ids), ids=ids, positions=gap)
    assert (apart.logits - trace.logits).abs().max() > 0.1


# Attention over visual columns 4 to 9 at four steps: at first, nearly the same, turned round, and back again.
VISUAL = [4, 5, 6, 7, 8, 9]
RISING, ALIKE, FALLING = [1.0, 2, 3, 4, 5, 9], [1.0, 2, 3, 5, 4, 9], [9.0, 5, 4, 3, 2, 1]
STEPS = [RISING, ALIKE, FALLING, RISING]


def run(policy, steps=STEPS, visual=VISUAL):
    """Columns a policy chooses for each attention, its similarities, and whether it chose."""
    found = [(policy.choose(visual, list(attention)), policy.similarity, policy.selected) for attention in steps]
    return [columns for columns, _, _ in found], [round(s, 3) for _, s, _ in found], [flag for _, _, flag in found]


def test_published():
    """Column 9 is the last: neither scored nor dropped. int(5 * .4) = 2 of the others; all where attention stays."""
    columns, similarities, selected = run(Published(0.6))
    assert columns == [[7, 8, 9], VISUAL, [4, 5, 9], [7, 8, 9]]
    assert similarities == [0.0, 0.982, 0.627, 0.615] and selected == [True, False, True, True]


def test_published_compares_with_the_step_before():
    """Attention that drifts is never compared with the one of the last selection."""
    turned = [[4.0 - t, t, 0] for t in (0, 1, 2, 3, 4)]
    _, similarities, selected = run(Published(0.5), turned, [1, 2, 5])
    assert similarities == [0.0, 0.949, 0.894, 0.894, 0.949] and selected == [True, False, True, True, False]


def test_paper():
    """int(6 * .5) = 3 of all, column 9 among them; kept while attention stays."""
    columns, similarities, selected = run(Paper(0.5))
    assert columns == [[7, 8, 9], [7, 8, 9], [4, 5, 6], [7, 8, 9]]
    assert similarities == [0.0, 0.993, 0.463, 0.456] and selected == [True, False, True, True]
    assert run(Paper(0.7))[0] == [[9], [9], [4], [9]]  # 6 * (1 - .7) is a little over 1.8
    assert run(Paper(0.7), [FALLING, FALLING[::-1]], VISUAL)[0] == [[4], [9]]


def test_paper_carries_on_a_set_that_is_no_longer_the_strongest():
    columns, _, selected = run(Paper(0.8), [[3, 2.9, 1, 1, 1, 1], [2.9, 3, 1, 1, 1, 1]])
    assert columns == [[4], [4]] and selected == [True, False]
    assert run(Paper(0.8, refresh=1.0), [[3, 2.9, 1, 1, 1, 1], [2.9, 3, 1, 1, 1, 1]])[0] == [[4], [5]]
    assert run(Paper(0.8, refresh=1.0), [RISING, RISING])[2] == [True, True]
    assert run(Paper(0.8, refresh=0.0), [RISING, FALLING])[2] == [True, False]


def test_one_shot_and_budgets_at_the_edges():
    columns, _, selected = run(OneShot(0.5))
    assert columns == [[7, 8, 9]] * 4 and selected == [True, False, False, False]
    assert run(Paper(0.0))[0] == [VISUAL] * 4 and run(Published(0.0))[0] == [VISUAL] * 4
    assert run(Paper(0.9), [[1.0]], [3])[0] == [[]] and run(Published(0.9), [[1.0]], [3])[0] == [[3]]
    assert run(Paper(0.9), [[], []], [])[0] == [[], []] and run(Published(0.9), [[], []], [])[0] == [[], []]


def test_replay_and_frozen():
    assert run(Replay([[0, 1, 5, 12], [4, 9]]), STEPS[:2])[0] == [[5], [4, 9]]
    assert run(Frozen([6]), STEPS[:2]) == ([[6], [6]], [0.0, 0.993], [False, False])
