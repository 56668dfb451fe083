"""What a policy keeps of a request: states of many makes, rows that change places, sets that keep their shape."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import dycoke
from dycoke.methods import DynamicPruning
from tests.support.decode_small import PROMPT, VISUAL, embeds, generate, qwen


@dataclass(slots=True, frozen=True)
class Frozen:
    keep: torch.Tensor


class Fixed:
    """Reads two columns it was given for each row, and keeps them in an object nothing can be set on."""

    first_layer = 2

    def budget(self, visual: int) -> int:
        return 2

    def start(self, visual):
        return Frozen(torch.tensor([[3, 5]]).repeat(len(visual), 1))

    def step(self, state, attn):
        state.keep.copy_(torch.where(attn[:, 3:4] > attn[:, 4:5], state.keep, state.keep.flip(1)))


def test_beams_reorder_whatever_holds_the_state():
    model, plan = qwen(), dycoke.Plan(decode=Fixed())
    with dycoke.attach(model, plan, visual=VISUAL, trace=True) as run:
        generate(model, num_beams=3)
    assert all(row[:3] == [0, 1, 2] and {3, 5} < set(row) and 4 not in row for step in run.report.keeps for row in step)


class Rows(NamedTuple):
    keep: torch.Tensor


def test_a_state_that_cannot_be_reordered_is_refused():
    class Tuple(Fixed):
        def start(self, visual):
            return Rows(super().start(visual).keep)

    model, said = qwen(), "state Rows: expected an object whose attributes can be set"
    with dycoke.attach(model, dycoke.Plan(decode=Tuple()), visual=VISUAL), pytest.raises(TypeError, match=said):
        generate(model)


class Widens(Fixed):
    def start(self, visual):
        return SimpleNamespace(keep=torch.tensor([[3, 5]]))

    def step(self, state, attn):
        state.keep = torch.arange(3, 9)[None]


@pytest.mark.parametrize(
    ("started", "error", "said"),
    [
        ({"kept": torch.tensor([[3, 5]])}, TypeError, "state SimpleNamespace: expected an attribute keep"),
        ({"keep": torch.tensor([3, 5])}, ValueError, r"state.keep of shape \(2,\): expected \[1, W\]"),
        ({"keep": torch.tensor([[3], [5]])}, ValueError, r"state.keep of shape \(2, 1\): expected \[1, W\]"),
    ],
)
def test_a_state_without_a_set_of_columns_is_refused(started, error, said):
    policy, model = Fixed(), qwen()
    policy.start = lambda visual: SimpleNamespace(**started)
    with dycoke.attach(model, dycoke.Plan(decode=policy), visual=VISUAL), pytest.raises(error, match=said):
        generate(model)


def test_a_set_that_grows_is_refused():
    """The list of columns to read has the width of the first one; text at the end would fall off it."""
    model, said = qwen(), r"state.keep of shape \(1, 6\): expected \(1, 2\)"
    with dycoke.attach(model, dycoke.Plan(decode=Widens()), visual=VISUAL), pytest.raises(ValueError, match=said):
        generate(model)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(
    "policy",
    [
        DynamicPruning(2, 0.5),
        DynamicPruning(2, 0.5, refresh=1.0),
        DynamicPruning(2, 0.5, "official"),
        DynamicPruning(2, 0.5, decode="one_shot"),
        DynamicPruning(2, 0.5, decode="random", refresh=1.0),
    ],
    ids=["paper", "every step", "official", "one_shot", "random"],
)
@torch.no_grad()
def test_rows_that_change_places_take_everything_along(monkeypatch, policy, place):
    """Two rows of different visual slots and padding, swapped in mid-answer, go on as if they had not been."""
    if place == "host":
        if policy.variant == "official":
            pytest.skip("the released code has no cache on the host")
        monkeypatch.setattr("dycoke.stages.decode.host_cache_works", lambda model: True)
        policy = replace(policy, dp_cache="host")
    model, visual, real = qwen(), VISUAL.repeat(2, 1), torch.ones(2, PROMPT, dtype=torch.long)
    visual[1], real[1, :2] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0]).bool(), 0
    prompt = torch.cat([embeds(0), embeds(1)])
    tokens = torch.randint(32, (6, 2), generator=torch.Generator().manual_seed(0))
    swap = torch.tensor([1, 0])
    with dycoke.attach(model, dycoke.Plan(decode=policy), visual=visual):
        answers = []
        for swapped in (False, True):
            cache, order, logits = model(inputs_embeds=prompt, attention_mask=real).past_key_values, swap.flip(0), []
            for t, ids in enumerate(tokens):
                if swapped and t == 3:
                    cache.reorder_cache(swap)
                    order = swap
                positions = (real.sum(1)[order] + t)[:, None]
                step = model(input_ids=ids[order][:, None], past_key_values=cache, position_ids=positions)
                logits.append(step.logits[order])
            answers.append(torch.stack(logits))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_a_refresh_of_one_chooses_at_every_step_to_the_letter(variant):
    """Attention that stays as it is has a cosine of 1, or a rounding above it."""
    policy = DynamicPruning(2, 0.5, variant, refresh=1.0)
    state, attn = policy.start(VISUAL), torch.rand(1, PROMPT, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        policy.step(state, attn)
    assert state.selections.tolist() == [3]
    assert int((state.keep >= 0).sum()) == policy.budget(6)
