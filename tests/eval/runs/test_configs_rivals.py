"""The experiment of all methods: those at about the same cost really are."""

from __future__ import annotations

import pytest

from dycoke import available
from dycoke.eval.runs.specs import RunSpec
from dycoke.lab.cost import SHAPES, retained, retained_final
from tests.eval.configs import PER_FRAME, plan_of, runs_of, tokens_of


def rivals() -> dict[str, list[RunSpec]]:
    """Runs of one task of the rivals, by method."""
    found: dict[str, list[RunSpec]] = {}
    for run in runs_of("rivals"):
        if run.task == "mvbench":
            found.setdefault(run.method.name, []).append(run)
    return found


def test_every_registered_method_is_a_rival():
    assert sorted(rivals()) == available()


SHARES = (0.25, 0.1)
BY_CONTENT = ("framefusion", "holitom", "prunevid")


@pytest.mark.parametrize("name", sorted({*available()} - {"full", "dycoke", "dynamic_pruning", *BY_CONTENT}))
def test_rivals_prefill_the_shares(name):
    for run, share in zip(rivals()[name], SHARES, strict=True):
        assert retained(tokens_of(run), run.frames * PER_FRAME) == pytest.approx(share, rel=0.065)


@pytest.mark.parametrize("name", BY_CONTENT)
def test_rivals_whose_count_depends_on_the_video(name):
    """At most the shares: of what enters the model all goes up to a layer, and a part of it from there on."""
    layers, part = (
        SHAPES["7b"].layers,
        {"holitom": lambda method: 1 - method.r, "prunevid": lambda method: method.alpha},
    )
    for run, share in zip(rivals()[name], SHARES, strict=True):
        with pytest.raises(ValueError, match="depends on the content"):
            tokens_of(run)
        method = run.method.build()
        if name == "framefusion":
            assert method.cost == share
            continue
        (pruner,) = plan_of(run).pruners
        mean = method.keep * (pruner.layer + (layers - pruner.layer) * part[name](method)) / layers
        assert mean == pytest.approx(share, rel=0.02)


def test_dycoke_among_its_rivals():
    whole = 32 * PER_FRAME
    own, least = (retained(tokens_of(run), whole) for run in rivals()["dycoke"])
    assert own == pytest.approx(0.475, rel=0.01)
    assert least == 0.25


def test_dynamic_pruning_reads_the_shares():
    whole = 32 * PER_FRAME
    for run, share in zip(rivals()["dynamic_pruning"], SHARES, strict=True):
        assert retained(tokens_of(run), whole) == 1
        assert retained_final(tokens_of(run), whole) == pytest.approx(share, rel=0.01)
