"""One loaded model carries one method after the other, and none at the end."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import dycoke
from dycoke.attach import _runs, attached
from dycoke.eval.models.dycoke_hf import LlavaOnevisionHF
from dycoke.eval.runs.samples import Samples
from tests.cli import files
from tests.core.test_attach import fingerprint
from tests.eval.models.asking import Doc, answer
from tests.eval.models.conftest import METHODS


@pytest.fixture(params=["llava_onevision", "llava_vid", "dycoke_hf"])
def model(request, onevision, vid, tmp_path) -> Any:
    if request.param == "dycoke_hf":
        return LlavaOnevisionHF(str(files.write_hf_checkpoint(tmp_path / "hf")), device="cpu", max_frames_num=8)
    return {"llava_onevision": onevision, "llava_vid": vid}[request.param].ours(method="full", dtype="float32")


def asked_with(model: Any, method: Any, asked: list[Doc]) -> list[str]:
    model.use(method, Samples())
    return answer(model, asked)


def test_each_method_answers_as_it_does_alone(model, asked):
    """`full` the same before, between and after the others."""
    methods = {name: method for name, (_, method) in METHODS.items()}
    methods["plan"] = dycoke.build_plan({"before": "vidcom2,keep=0.5", "inside": "pdrop,layers=[1],keep=0.5"})
    first = {name: asked_with(model, method, asked) for name, method in methods.items()}
    assert len(set(map(tuple, first.values()))) == len(methods)
    again = {name: asked_with(model, methods[name], asked) for name in ("fastv", "full", "dycoke", "plan", "full")}
    assert again == first


def test_nothing_stays_on_the_model(model, asked):
    answer(model, asked[:1])
    model.leave()
    plain = fingerprint(model.model)
    for _, method in METHODS.values():
        model.use(method, Samples())
        assert fingerprint(model.model) != plain
        assert attached(model.model).name == dycoke.registry.name_of(method)
        answer(model, asked[:1])
        model.leave()
        assert fingerprint(model.model) == plain
    model.leave()  # twice does nothing
    assert fingerprint(model.model) == plain
    assert model.model not in _runs


def test_answers_and_samples_of_one_run_are_not_those_of_another(model, asked):
    one, two = Samples(), Samples()
    model.use(METHODS["dycoke"][1], one)
    answer(model, asked[:2])
    model.use(METHODS["full"][1], two)
    answer(model, asked[:2])
    assert one.answers.keys() == two.answers.keys()
    assert one.answers != two.answers


def test_a_method_that_cannot_go_on_the_model_leaves_none(model):
    """Such as one for a layer the model does not have."""
    with pytest.raises(ValueError, match="99"):
        model.use(dycoke.build("fastv", k=99), Samples())
    assert model.model not in _runs
    model.use(dycoke.build("full"), Samples())
    assert attached(model.model).name == "full"


def test_frames_may_change_between_runs(model, asked):
    eight = asked_with(model, dycoke.build("full"), asked)
    model.max_frames_num = 4
    assert asked_with(model, dycoke.build("full"), asked) != eight
    model.max_frames_num = 8
    assert asked_with(model, dycoke.build("full"), asked) == eight


def test_the_model_stays_where_a_sweep_wants_it(onevision, asked):
    """lmms-eval cleans up behind every run."""
    model = onevision.ours(method="full", dtype="float32")
    model.stays = True
    answers = answer(model, asked)
    model.clean()
    assert asked_with(model, dycoke.build("full"), asked) == answers
    model.stays = False
    model.clean()
    assert not any(isinstance(value, nn.Module) for value in vars(model).values())
