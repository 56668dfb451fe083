"""Plans in YAML: a method for each stage, strict about everything."""

from __future__ import annotations

import re

import pytest

import dycoke
from dycoke import Plan, build_plan, load_plan
from dycoke.methods import DynamicPruning, RandomDrop, TemporalMerge, UniformFrames
from dycoke.registry import available, entry


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        ({"before": "random_drop"}, Plan(before=RandomDrop())),
        ({"before": "random_drop,keep=0.25,seed=3"}, Plan(before=RandomDrop(0.25, 3))),
        ({"before": {"name": "random_drop", "keep": 0.25}}, Plan(before=RandomDrop(0.25))),
        ({"before": {"name": "random_drop"}}, Plan(before=RandomDrop())),
        ({"before": "dycoke,k=0.5"}, Plan(before=TemporalMerge(0.5))),
        ({"decode": "dycoke"}, Plan(decode=DynamicPruning())),
        ({"decode": {"name": "dycoke", "l": 5, "p": 0.5}}, Plan(decode=DynamicPruning(5, 0.5))),
        ({"decode": "dynamic_pruning,layer=2"}, Plan(decode=DynamicPruning(2))),
        ({"decode": "dycoke", "before": "uniform_frames"}, Plan(UniformFrames(), None, DynamicPruning())),
    ],
)
def test_each_stage_is_taken_from_its_method(spec, plan):
    assert build_plan(spec) == plan


@pytest.mark.parametrize("name", available())
def test_every_method_can_stand_for_each_of_its_stages(name):
    plan = dycoke.build(name).plan()
    for stage in entry(name).stages:
        assert build_plan({stage: name}) == Plan(**{stage: getattr(plan, stage)})
    assert build_plan(dict.fromkeys(entry(name).stages, name)) == plan


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({}, "plan: an empty mapping; expected one or more of before, inside, decode"),
        ("dycoke", "plan 'dycoke': expected a mapping of before, inside, decode to methods"),
        (None, "plan None: expected a mapping"),
        (["dycoke"], "plan ['dycoke']: expected a mapping"),
        ({"befor": "dycoke"}, "plan: unknown key 'befor'; expected one or more of before, inside, decode"),
        ({"before": "dycoke", 3: "x", "plan": {}}, "plan: unknown key 3, 'plan'"),
        ({"before": "dycok"}, "before: unknown method 'dycok'; available: "),
        ({"before": "dycoke,kk=1"}, "before: dycoke: unknown option 'kk'; accepts: decode"),
        ({"before": {"name": "random_drop", "kep": 1}}, "before: random_drop: unknown option 'kep'; accepts: keep, "),
        ({"before": {"name": "random_drop", 3: 1}}, "option 3: expected the name of an option"),
        ({"before": "random_drop,keep=2"}, "before: keep=2: expected a number in (0, 1]"),
        ({"before": "random_drop,keep=a"}, "before: keep='a': expected a number"),
        ({"before": "random_drop,keep"}, "before: option 'keep': expected name=value"),
        ({"decode": "random_drop"}, "decode: random_drop has no stage 'decode'; its stages: before; methods with "),
        ({"before": "dynamic_pruning"}, "before: dynamic_pruning has no stage 'before'; its stages: decode; methods "),
        (
            {"inside": "dycoke"},
            "inside: dycoke has no stage 'inside'; its stages: before, decode; methods ",
        ),
        (
            {"decode": "dycoke,decode=off"},
            "decode: dycoke has no stage 'decode' with these options; its stages: ",
        ),
        ({"before": None}, "before: None: expected a method's name, or a mapping of `name` and its options"),
        ({"before": 3}, "before: 3: expected a method's name"),
        ({"before": ["dycoke"]}, "before: ['dycoke']: expected a method's name"),
        ({"before": {"keep": 0.5}}, "before: {'keep': 0.5}: expected a method's name"),
        ({"before": {"name": 3}}, "before: {'name': 3}: expected a method's name"),
    ],
)
def test_refused(spec, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        build_plan(spec)


def test_the_methods_that_have_a_stage_are_named():
    with pytest.raises(ValueError, match="methods with 'decode': ") as caught:
        build_plan({"decode": "full"})
    named = str(caught.value).partition("methods with 'decode': ")[2].split(", ")
    assert named == [name for name in available() if "decode" in entry(name).stages] and "dycoke" in named


WANT = Plan(before=RandomDrop(0.25), decode=DynamicPruning(5, decode="one_shot"))


@pytest.mark.parametrize(
    "text",
    [
        "before: {name: random_drop, keep: 0.25}\ndecode: 'dycoke,l=5,decode=one_shot'\n",
        "plan:\n  before: random_drop,keep=0.25\n  decode:\n    name: dycoke\n    l: 5\n    decode: one_shot\n",
        '{"plan": {"before": "random_drop,keep=25e-2", "decode": {"name": "dycoke", "l": 5, "decode": "one_shot"}}}',
    ],
)
def test_a_file(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert load_plan(path) == load_plan(str(path)) == WANT


def test_off_in_a_file_is_no_truth_value(tmp_path):
    (tmp_path / "plan.yaml").write_text("before: {name: dycoke, decode: off}")
    assert load_plan(tmp_path / "plan.yaml") == Plan(before=TemporalMerge())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "plan None: expected a mapping"),
        (b"dycoke", "plan 'dycoke': expected a mapping"),
        (b"before: [", "not a value in YAML: while parsing"),
        (b"before: full\nbefore: dycoke", "not a value in YAML: 'before' is given twice"),
        (b"before: !!python/object/apply:os.getcwd []", "not a value in YAML: could not determine a constructor"),
        (b"plan: {before: full}\nmodel: x", "plan: unknown key 'plan', 'model'"),
        (b"plan: {}", "plan: an empty mapping"),
        (b"plan: {plan: {before: full}}", "plan: unknown key 'plan'"),
        (b"before: random_drop,kep=1", "before: random_drop: unknown option 'kep'"),
        (b"before: \xff", "'utf-8' codec can't decode"),
    ],
)
def test_a_file_refused(tmp_path, content, complaint):
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {complaint}")) as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml: No such file or directory"):
        load_plan(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="Is a directory"):
        load_plan(tmp_path)
