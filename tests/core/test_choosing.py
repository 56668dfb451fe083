"""One door to choose a method, by a text, a mapping, a plan or its file; every command goes through it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dycoke
from dycoke import Plan
from dycoke.ask.methods import chosen_methods
from dycoke.eval.runs.experiment import parse_experiment
from dycoke.keywords import choose_method
from dycoke.methods import DynamicPruning
from dycoke.options import split_methods
from dycoke.plans import Choice, choose, read_choice

PLAN = Plan(before=dycoke.build("random_drop", keep=0.25), decode=DynamicPruning(2))
STAGES = {"before": "random_drop,keep=0.25", "decode": {"name": "dycoke", "l": 2}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("dycoke", dycoke.build("dycoke")),
        ("dycoke,k=.3", dycoke.build("dycoke", k=0.3)),
        (" dycoke , k=.3, l=5", dycoke.build("dycoke", k=0.3, l=5)),
        ("pdrop,layers=[2,4,6],keep=0.4", dycoke.build("pdrop", layers=(2, 4, 6), keep=0.4)),
        ({"name": "dycoke", "k": 0.3}, dycoke.build("dycoke", k=0.3)),
        ({"method": "dycoke", "k": 0.3}, dycoke.build("dycoke", k=0.3)),
        ({"method": "pdrop", "layers": [2, 4]}, dycoke.build("pdrop", layers=(2, 4))),
        (STAGES, PLAN),
        ({"plan": STAGES}, PLAN),
        ({"plan": PLAN}, PLAN),
        (PLAN, PLAN),
        (dycoke.build("full"), dycoke.build("full")),
    ],
)
def test_every_form(given, expected):
    assert choose(given) == expected


@pytest.mark.parametrize("content", ["{before: 'random_drop,keep=0.25', decode: {name: dycoke, l: 2}}", "plan: {}"])
@pytest.mark.parametrize("form", [str, Path, lambda path: {"plan": str(path)}])
def test_the_file_of_a_plan(tmp_path, content, form):
    path = tmp_path / "some plan.yaml"
    path.write_text(content)
    if content == "plan: {}":
        with pytest.raises(ValueError, match=re.escape(f"{path}: plan: an empty mapping; expected one or more of")):
            choose(form(path))
    else:
        assert choose(form(path)) == PLAN


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("dycok", "unknown method 'dycok'; available: "),
        ("dycoke,kk=1", "dycoke: unknown option 'kk'; accepts: decode, dp_cache, k, l, "),
        ("dycoke,name=full", "dycoke: unknown option 'name'; accepts: decode, dp_cache, k, l, "),
        ({"method": "dycoke", "name": "full"}, "dycoke: unknown option 'name'; accepts: decode, "),
        ({"before": "vidcom2,name=full"}, "before: vidcom2: unknown option 'name'; accepts: "),
        ("dycoke,k=2", "k=2: expected a number in [0, 1]"),
        ("dycoke,l=x", "l='x': expected an integer"),
        ("dycoke,k", "option 'k': expected name=value"),
        ("dycoke,k=.3,k=.4", "option 'k' is given twice: 0.3 and '.4'"),
        ("absent.yaml", "absent.yaml: No such file"),
        ({"k": 0.3}, "{'k': 0.3}: expected a method's name, or a mapping with either name or plan"),
        ({"name": "dycoke", "plan": STAGES}, "expected a method's name, or a mapping with either name or plan"),
        ({"plan": None}, "expected a method's name, or a mapping with either name or plan"),
        ({"plan": 3}, "plan 3: expected a mapping of before, inside, decode to methods"),
        ({"before": "dycok"}, "before: unknown method 'dycok'"),
        ({"name": 3}, "{'name': 3}: expected a method's name, or a mapping of `name` and its options"),
        ({"name": "dycoke", 3: 1}, "option 3: expected the name of an option"),
        ({}, "{}: expected a method's name"),
        (3, "3: expected a method's name"),
        (None, "None: expected a method's name"),
        (["dycoke"], "['dycoke']: expected a method's name"),
        (dycoke.methods.Full, "expected a method's name"),
    ],
)
def test_refused_in_one_line(given, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        choose(given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_is_not_looked_up_before_it_is_built():
    assert read_choice("nobody,x=1") == Choice("nobody", {"x": 1})


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("full", ["full"]),
        ("full,dycoke,random_drop", ["full", "dycoke", "random_drop"]),
        ("full, dycoke,k=.3,l=5 , random_drop", ["full", "dycoke,k=.3,l=5", "random_drop"]),
        ("pdrop,layers=[2,4],full", ["pdrop,layers=[2,4]", "full"]),
        ("full,plan.yaml", ["full", "plan.yaml"]),
        ("full,", ["full", ""]),
        ("k=.3,full", ["k=.3", "full"]),
    ],
)
def test_several_methods_in_a_text(text, methods):
    assert [each.strip() for each in split_methods(text)] == methods


def test_all_doors_choose_the_same(tmp_path):
    """`dycoke ask`, the loader's keywords and experiments; lmms-eval's arguments are in tests/eval/models."""
    expected = dycoke.build("dycoke", k=0.3, l=5)
    text = "dycoke,k=.3,l=5"
    content = {"model": {"id": "llava_vid", "pretrained": "x"}, "video": {"frames": 8}, "tasks": ["mvbench"]}
    assert chosen_methods(text, [], {}, []) == {text: expected}
    assert choose_method({"method": text}).method == expected
    (run,) = parse_experiment("small", content | {"methods": [text]}).runs
    assert (run.method.build(), run.method.label) == (expected, "dycoke k=0.3 l=5")
    file = tmp_path / "plan.yaml"
    file.write_text("before: random_drop,keep=0.25\ndecode: {name: dycoke, l: 2}\n")
    assert chosen_methods(str(file), [], {}, []) == {str(file): PLAN}
    assert choose_method({"method": str(file)}).method == choose_method({"plan": str(file)}).method == PLAN
    methods = [str(file), {"plan": str(file), "label": "both"}]
    runs = parse_experiment("small", content | {"methods": methods[:1]}).runs
    assert (runs[0].method.build(), runs[0].method.label) == (PLAN, "before-random_drop-keep-0.25-decode-dycoke-l2")
    assert runs[0].config()["method"] == {"plan": STAGES}
    (run,) = parse_experiment("small", content | {"methods": methods[1:]}).runs
    assert (run.method.build(), run.method.label) == (PLAN, "both")


def test_a_method_in_a_text_is_swept_over_lists():
    content = {"model": {"id": "llava_vid", "pretrained": "x"}, "video": {"frames": 8}, "tasks": ["mvbench"]}
    runs = parse_experiment("small", content | {"methods": ["dycoke,k=[.3,.7]", "pdrop,layers=[8,16]"]}).runs
    assert [run.method.label for run in runs] == ["dycoke k=0.3", "dycoke k=0.7", "pdrop layers=[8, 16]"]


def test_options_beside():
    assert read_choice("dycoke,k=.3").beside({"l": 5}, "here", "there") == Choice("dycoke", {"k": 0.3, "l": 5})
    with pytest.raises(ValueError, match=r"k given in method='dycoke,k=\.3' and in there; leave one"):
        read_choice("dycoke,k=.3").beside({"k": 0.5, "l": 5}, "method='dycoke,k=.3'", "there")
    with pytest.raises(ValueError, match="there beside here: the options of a plan stand in it"):
        read_choice("plan.yaml").beside({"k": 0.5}, "here", "there")
    assert read_choice("plan.yaml").beside({}, "here", "there") == Choice(plan=Path("plan.yaml"))


def test_one_method_compared_with_itself():
    found = chosen_methods(None, ["dycoke,k=.3", "dycoke,k=.7", "full"], {"l": 2}, ["p=0.5"])
    assert found == {
        "dycoke,k=.3": dycoke.build("dycoke", k=0.3, l=2, p=0.5),
        "dycoke,k=.7": dycoke.build("dycoke", k=0.7, l=2, p=0.5),
        "full": dycoke.build("full"),
    }
    assert list(found) == ["dycoke,k=.3", "dycoke,k=.7", "full"]


@pytest.mark.parametrize(
    ("compare", "short", "options", "complaint"),
    [
        (["dycoke,k=.3", "dycoke,k=0.3"], {}, [], "--compare dycoke,k=0.3: the method is named twice, with the same"),
        (["full,dycoke,full"], {}, [], "--compare full: the method is named twice"),
        (["full", "dycoke,k=.3"], {"k": 0.5}, [], "k given in dycoke,k=.3 and in --option k; leave one"),
        (["full", "dycoke,k=.3"], {}, ["k=0.5"], "k given in dycoke,k=.3 and in --option k; leave one"),
        (
            ["full", "dycoke,k=.3"],
            {},
            ["keep=0.5"],
            "unknown option keep; accepted are full: no options; dycoke,k=.3: ",
        ),
        (["dycoke,k=.3"], {}, ["kk=0.5"], "dycoke: unknown option 'kk'"),
        (["plan.yaml"], {}, ["k=0.5"], "--option k beside plan.yaml: the options of a plan stand in it"),
        (["plan.yaml,full"], {"k": 0.5}, [], "--k: plan.yaml, full has no option k; methods that have it: dycoke"),
    ],
)
def test_comparisons_refused(compare, short, options, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        chosen_methods(None, compare, short, options)
