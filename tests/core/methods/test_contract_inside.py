"""What every registered method with a stage inside the language model owes its callers, at its defaults.

The matrix of `test_contract.py` on a tiny model as deep as the one the published layers are for. A new method is picked
up by being registered.
"""

import functools

import pytest
import torch

import dycoke
from dycoke.registry import entry
from dycoke.types import Plan
from llava.constants import IMAGE_TOKEN_INDEX
from tests.cases import case, every_pair, folded
from tests.llava import tiny

FRAMES = [1, 2, 3, 5, 8, 32, 48]
SIDES = {4: 56, 16: 112}  # tokens a frame: side of a picture
DEPTH = 28
TEXT = 7
GENEROUS = {"keep": 1.0, "r": 0.0, "cost": 1.0, "inner_keep": 1.0, "alpha": 1.0}


def stage_two() -> list[str]:
    """The methods registered by now that have a stage inside the language model."""
    return [name for name in dycoke.available() if "inside" in entry(name).stages]


def inside(name: str, **options) -> Plan:
    return Plan(inside=dycoke.build(name, **options).plan().inside)


SUBJECTS = [(4, torch.float32), (16, torch.float32), (16, torch.bfloat16)]  # tokens a frame, precision
MATRIX = every_pair(stage_two(), SUBJECTS, FRAMES, [False, True])


@functools.cache
def subject(per_frame: int, dtype: torch.dtype):
    tower = tiny.vision_config("siglip", image_size=SIDES[per_frame])
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = tiny.make_model(tiny.onevision_config(num_hidden_layers=DEPTH, vision_config=tower, **small))
    return model.to(dtype)


def call(model, per_frame: int, frames: int, constant: bool) -> torch.Tensor:
    """Logits [S', V] of a prompt with a video in it."""
    generator = torch.Generator().manual_seed(frames)
    shape = (frames, 3, SIDES[per_frame], SIDES[per_frame])
    pixels = torch.ones(shape) if constant else torch.randn(shape, generator=generator)
    ids = torch.tensor([[5, 6, IMAGE_TOKEN_INDEX, 7, 8, 9, 4]])
    with torch.no_grad():
        return model(input_ids=ids, images=[pixels], modalities=["video"]).logits[0]


@pytest.mark.parametrize("name", stage_two())
def test_what_goes_on(name):
    for _, (per_frame, dtype), frames, constant in (row for row in MATRIX if row[0] == name):
        with case(per_frame=per_frame, dtype=dtype, frames=frames, constant=constant):
            check_what_goes_on(subject(per_frame, dtype), per_frame, inside(name), frames, constant)


def check_what_goes_on(model, per_frame: int, plan: Plan, frames: int, constant: bool) -> None:
    visual = set(range(2, 2 + frames * per_frame))
    before = set(range(frames * per_frame + TEXT))
    rng = torch.get_rng_state()
    with dycoke.attach(model, plan, trace=True) as run:
        logits, entered = call(model, per_frame, frames, constant), run.report.inside
        again, once_more = call(model, per_frame, frames, constant), run.report.inside
    assert torch.equal(logits, again) and entered == once_more
    assert torch.equal(torch.get_rng_state(), rng) and not logits.isnan().any()
    pruners = {pruner.layer: pruner for pruner in plan.pruners}
    for each in entered:
        (columns,) = each.columns
        assert columns == sorted(set(columns)) and set(columns) <= before
        assert before - set(columns) <= visual  # text goes on
        left, tokens = len(before & visual), len(set(columns) & visual)
        assert each.tokens == tokens
        pruner = pruners.get(each.layer)
        told = len(visual) if getattr(pruner, "counts", "left") == "entered" else left
        count = pruner.count(told) if pruner else None
        assert count is None or tokens == count <= left
        before = set(columns)
    assert len(logits) == len(before)
    bound = getattr(plan.pruners[0], "bound", None)
    if bound is not None:
        layers = [each.layer for each in entered] + [DEPTH]
        spent = layers[0] * len(visual)
        spent += sum(each.tokens * (end - each.layer) for each, end in zip(entered, layers[1:], strict=True))
        assert spent <= bound(len(visual), DEPTH)


@folded("per_frame,dtype", SUBJECTS)
@pytest.mark.parametrize("name", stage_two())
def test_keeping_everything_is_the_untouched_model(name, per_frame, dtype):
    model = subject(per_frame, dtype)
    options = {option: value for option, value in GENEROUS.items() if option in entry(name).options}
    plan, want = inside(name, **options), call(model, per_frame, 5, False)
    assert options, f"no option of {name} is known to keep everything"
    if plan.inside is None:  # then there is nothing inside that could change an answer
        return
    with dycoke.attach(model, plan) as run:
        got = call(model, per_frame, 5, False)
        assert all(each.tokens == 5 * per_frame for each in run.report.inside)
    torch.testing.assert_close(got, want, atol=1e-5 if model.dtype == torch.float32 else 0.05, rtol=0)
