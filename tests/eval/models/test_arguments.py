"""What `--model_args` of lmms-eval means to our models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.models.simple.llava_onevision import Llava_OneVision
from lmms_eval.utils import simple_parse_args_string

import dycoke
from dycoke import registry
from dycoke.eval.models.arguments import builtin_defaults, split_arguments
from dycoke.eval.models.dycoke_hf import LlavaOnevisionHF

PAPER = {"k": 0.7, "l": 3, "p": 0.7, "variant": "paper"}


def split(text: str, builtin: type = Llava_OneVision, **more):
    return split_arguments(simple_parse_args_string(text) | more, builtin)


def method(text: str, **more):
    return split(text, **more).chosen.method


def complaint(text: str, **more) -> str:
    with pytest.raises(ValueError) as raised:
        split(text, **more)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_nothing_of_ours():
    found = split("pretrained=x,conv_template=qwen_1_5,max_frames_num=16,device_map=auto", batch_size="1", device="cpu")
    assert not found.ours
    assert found.builtin == {
        "pretrained": "x",
        "conv_template": "qwen_1_5",
        "max_frames_num": 16,
        "device_map": "auto",
        "batch_size": "1",
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dycoke=True", PAPER),
        ("dycoke=True,dycoke_k=0.5", PAPER | {"k": 0.5}),
        ("dycoke=true,dycoke_l=5,dycoke_p=0.8,dycoke_k=1", PAPER | {"l": 5, "p": 0.8, "k": 1}),
        ("dycoke=True,dycoke_variant=official,image_token_start_index=14", PAPER | {"variant": "official"}),
    ],
)
def test_published_spelling(text, expected):
    found = split(f"pretrained=x,{text}")
    assert found.chosen.method == dycoke.build("dycoke", **expected)
    assert found.ours
    assert found.builtin == {"pretrained": "x"}


def test_dycoke_switched_off():
    found = split("dycoke=False,dycoke_k=0.5,max_frames_num=8")
    assert not found.ours
    assert found.builtin == {"max_frames_num": 8}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method=full", dycoke.build("full")),
        ("method=fastv,k=2,r=0.65", dycoke.build("fastv", k=2, r=0.65)),
        ("k=2,method=fastv", dycoke.build("fastv", k=2)),
        (
            "method=dycoke,decode=off,positions=original,l=2",
            dycoke.build("dycoke", decode="off", positions="original", l=2),
        ),
        ("method=pdrop,layers=[1,2],keep=0.4", dycoke.build("pdrop", layers=(1, 2), keep=0.4)),
        ("method=fastvid,tau=1e-2", dycoke.build("fastvid", tau=0.01)),
    ],
)
def test_method_with_options(text, expected):
    found = split(f"{text},truncation=False")
    assert found.chosen.method == expected
    assert found.ours
    assert found.builtin == {"truncation": False}


def test_method_as_python_gives_it():
    given = {"method": "fastv,k=3", "method_options": {"r": 0.25}}
    assert split_arguments(given, Llava_OneVision).chosen.method == dycoke.build("fastv", k=3, r=0.25)


def test_plan_of_a_file(tmp_path: Path):
    file = tmp_path / "plan.yaml"
    file.write_text("before: {name: visionzip, keep: 0.5}\ninside: {name: pdrop, layers: [1, 2]}\ndecode: dycoke\n")
    plan = method(f"plan={file}")
    assert plan.before == dycoke.build("visionzip", keep=0.5).plan().before
    assert plan.inside == dycoke.build("pdrop", layers=(1, 2)).plan().inside
    assert plan.decode == dycoke.build("dycoke").plan().decode


def test_plan_of_a_file_as_a_method(tmp_path: Path):
    """One door: what names a plan in one place names it in all."""
    file = tmp_path / "plan.yaml"
    file.write_text("decode: dycoke\n")
    assert method(f"method={file}") == dycoke.build_plan({"decode": "dycoke"})
    assert "the options of a plan stand in it" in complaint(f"method={file},k=0.5")


def test_no_such_plan(tmp_path: Path):
    assert "nowhere.yaml" in complaint(f"plan={tmp_path}/nowhere.yaml")


def test_unknown_argument_beside_a_method():
    message = complaint("method=fastv,ratio=0.5")
    assert "ratio" in message
    assert "fastv" in message
    assert "options: k, r" in message


def test_unknown_argument_beside_a_method_without_options():
    assert "options: none" in complaint("method=full,k=2")


@pytest.mark.parametrize("text", ["frames=8", "dycoke=True,k=0.5", "plan=x.yaml,k=0.5"])
def test_unknown_argument_without_a_method(text):
    message = complaint(f"{text},max_frames_num=8")
    assert text.split(",")[-1].split("=")[0] in message
    assert "method=NAME" in message
    assert "max_frames_num" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method=fastvv", ["fastvv", "fastv"]),
        ("method=fastvv,k=2", ["fastvv", "fastv"]),
        ("method=fastv,k=two", ["k", "two"]),
        ("method=fastv,r=7", ["r", "7"]),
        ("dycoke=True,method=fastv", ["dycoke and method"]),
        ("method=fastv,plan=x.yaml", ["method and plan"]),
        ("dycoke=maybe", ["maybe"]),
        ("dycoke_k=0.5", ["dycoke_k", "dycoke=True"]),
        ("dycoke=True,dycoke_q=0.5", ["dycoke_q"]),
        ("dtype=half", ["half", "float16", "bfloat16", "float32"]),
    ],
)
def test_refusals_name_what_is_wrong(text, words):
    message = complaint(text)
    for word in words:
        assert word in message


def test_an_option_given_twice():
    given = {"method": "fastv,k=3", "k": 2}
    with pytest.raises(ValueError, match="k given in method"):
        split_arguments(given, Llava_OneVision)
    with pytest.raises(ValueError, match="no method_options"):
        split_arguments({"method": "fastv", "r": 0.5, "method_options": {"k": 2}}, Llava_OneVision)


@dataclass(frozen=True)
class _Like:
    """Its option is called as an argument of the model is."""

    truncation: int = 3

    def plan(self):
        return dycoke.build("uniform_frames", keep=1 / self.truncation).plan()


def test_the_models_argument_goes_before_an_option_of_the_same_name(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    registry.register("like", source="a test", retention="all", official="all")(_Like)
    found = split("method=like,truncation=2")
    assert found.builtin == {"truncation": 2}
    assert found.chosen.method == _Like(3)
    (tmp_path / "plan.yaml").write_text("before: {name: like, truncation: 2}\n")
    assert method(f"plan={tmp_path}/plan.yaml").before == _Like(2).plan().before


@pytest.mark.parametrize(
    ("value", "size", "ours"),
    [(None, 1, False), ("1", 1, False), (1, 1, False), ("2", 2, True), (3, 3, True), ("auto", "auto", True)],
)
def test_batch_size(value, size, ours):
    found = split("", batch_size=value)
    assert (found.batch_size, found.ours) == (size, ours)
    assert found.chosen.method == dycoke.build("full")


@pytest.mark.parametrize("value", ["all", "auto:4", "0", 0, -1, "2.5", 2.5, True, "", "-1"])
def test_batch_size_refused(value):
    message = complaint("", batch_size=value)
    assert message == f"batch_size={value!r}: expected an integer of at least 1, or auto"


@pytest.mark.parametrize(("value", "size", "ours"), [(0, 0, False), ("0", 0, False), (1, 1, True), ("50", 50, True)])
def test_encoder_cache(value, size, ours):
    found = split("", encoder_cache=value)
    assert (found.encoder_cache, found.ours, dict(found.builtin)) == (size, ours, {})


@pytest.mark.parametrize("value", [-1, "-1", "all", 2.5, True, None])
def test_encoder_cache_refused(value):
    assert f"encoder_cache={value!r}: expected an integer of at least 0" in complaint("", encoder_cache=value)


@pytest.mark.parametrize(("text", "route", "ours"), [("", "exact", False), ("preprocess=exact", "exact", True)])
def test_who_makes_pixels(text, route, ours):
    found = split(text)
    assert (found.preprocess, found.ours, dict(found.builtin)) == (route, ours, {})
    assert split("preprocess=device").preprocess == "device"


@pytest.mark.parametrize("value", ["auto", "gpu", "", True])
def test_who_makes_pixels_refused(value):
    assert f"preprocess={value!r}: expected one of exact, device" in complaint("", preprocess=value)


@pytest.mark.parametrize("text", ["dtype=float32", "samples=out.jsonl", "preprocess=device"])
def test_what_alone_makes_it_ours(text):
    found = split(text)
    assert found.ours
    assert found.chosen.method == dycoke.build("full")
    assert found.builtin == {}


def test_samples_of_several_processes(tmp_path):
    found = split(f"samples={tmp_path}/out.jsonl")
    assert found.samples_of(0, 1) == tmp_path / "out.jsonl"
    assert found.samples_of(1, 2) == tmp_path / "out.rank1.jsonl"
    assert split("dtype=float32").samples_of(0, 1) is None


def test_samples_that_are_there_are_not_written_into(tmp_path):
    file = tmp_path / "out.jsonl"
    file.touch()
    assert split(f"samples={file}").samples_of(0, 1) == file
    file.write_text("{}\n")
    with pytest.raises(ValueError, match="there are samples in it already"):
        split(f"samples={file}").samples_of(0, 1)
    assert file.read_text() == "{}\n"


def test_a_further_keyword_is_not_an_argument():
    assert "given" not in builtin_defaults(LlavaOnevisionHF)
    assert "kwargs" not in builtin_defaults(Llava_OneVision)
    assert "given" in complaint("given=3", builtin=LlavaOnevisionHF)
