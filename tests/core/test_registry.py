"""Methods by name, strict options, and the door of types."""

import re
from dataclasses import dataclass, field

import pytest
import torch

import dycoke
from dycoke import registry
from dycoke.methods import DynamicPruning
from dycoke.registry import available, entry
from dycoke.types import Plan, VisualTokens

TEXTS = {"source": "this test", "retention": "1/2", "official": "none"}


def test_unknown_method_names_the_registered_ones():
    with pytest.raises(ValueError, match=re.escape(f"unknown method 'dycok'; available: {', '.join(available())}")):
        dycoke.build("dycok")
    assert {"dycoke", "dynamic_pruning", "full", "random_drop", "uniform_frames"} <= set(available())


def test_unknown_option_names_the_accepted_ones():
    with pytest.raises(TypeError, match=re.escape("dycoke: unknown option 'kk'; accepts: decode, dp_cache, k, l, p, ")):
        dycoke.build("dycoke", kk=0.7)
    with pytest.raises(TypeError, match="full: unknown option 'k'; accepts: no options"):
        dycoke.build("full", k=0.7)


@pytest.mark.parametrize(
    "name,options,error",
    [
        ("dycoke", {"k": 1.5}, r"k=1\.5: expected a number in \[0, 1\]"),
        ("dycoke", {"k": -0.1}, r"k=-0\.1"),
        ("dycoke", {"k": float("nan")}, "k=nan"),
        ("dycoke", {"variant": "fast"}, "variant='fast': expected one of paper, official"),
        ("dycoke", {"positions": "kept"}, "positions='kept': expected one of packed, original"),
        ("dycoke", {"variant": "official", "positions": "original"}, "original positions must ascend"),
        ("dycoke", {"l": 0}, "l=0: expected 1 to the model's last layer, because layer l - 1 is the observer"),
        ("dycoke", {"p": 1.0}, r"p=1\.0: expected a number in \[0, 1\)"),
        ("dycoke", {"p": -0.1}, r"p=-0\.1: expected a number in \[0, 1\)"),
        ("dycoke", {"refresh": 1.1}, r"refresh=1\.1: expected a number in \[0, 1\]"),
        ("dycoke", {"decode": "static"}, "decode='static': expected one of dynamic, one_shot, random, off"),
        ("dycoke", {"dp_cache": "disk"}, "dp_cache='disk': expected one of device, host"),
        ("dycoke", {"seed": -1}, "seed=-1: expected an integer from 0"),
        ("dycoke", {"variant": "official", "decode": "one_shot"}, "decode='one_shot' with variant='official'"),
        ("dycoke", {"variant": "official", "decode": "random"}, "decode='random' with variant='official'"),
        ("dycoke", {"variant": "official", "decode": "off"}, "decode='off' with variant='official'"),
        ("dycoke", {"variant": "official", "dp_cache": "host"}, "dp_cache='host' with variant='official'"),
        ("dynamic_pruning", {"layer": 0}, "l=0: expected 1 to the model's last layer"),
        ("random_drop", {"keep": 0}, r"keep=0: expected a number in \(0, 1\]"),
        ("random_drop", {"seed": -1}, "seed=-1"),
        ("random_drop", {"seed": 10**23}, "seed=10+: expected an integer from 0"),
        ("uniform_frames", {"keep": 1.1}, r"keep=1\.1"),
        ("uniform_frames", {"positions": ""}, "positions=''"),
    ],
)
def test_option_out_of_range(name, options, error):
    with pytest.raises(ValueError, match=error):
        dycoke.build(name, **options)


@pytest.mark.parametrize("option", ["k", "p", "refresh"])
@pytest.mark.parametrize("value", ["0.7", None, True])
def test_option_of_another_type(option, value):
    with pytest.raises(TypeError, match="expected a number"):
        dycoke.build("dycoke", **{option: value})


@pytest.mark.parametrize("value", ["3", 3.0, None, True])
def test_layer_of_another_type(value):
    with pytest.raises(TypeError, match=r"l=.*: expected an integer"):
        dycoke.build("dycoke", l=value)


def test_every_option_of_dycoke_reaches_the_stage_while_decoding():
    options = {"p": 0.6, "decode": "random", "refresh": 0.5, "seed": 7, "dp_cache": "host"}
    assert dycoke.build("dycoke", l=2, **options).plan().decode == DynamicPruning(2, **options)
    official = dycoke.build("dycoke", l=2, variant="official").plan().decode
    assert official == DynamicPruning(2, variant="official")


def test_register_refuses_a_taken_name_and_a_mutable_class():
    with pytest.raises(ValueError, match="'full' is registered already"):
        registry.register("full", **TEXTS)(type("Other", (), {}))

    @dataclass
    class Mutable:
        def plan(self):
            return dycoke.Plan()

    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        registry.register("mutable", **TEXTS)(Mutable)
    assert "mutable" not in dycoke.available()


def test_register_refuses_what_the_table_of_methods_could_not_show():
    @dataclass(frozen=True)
    class Silent:
        def plan(self):
            return dycoke.Plan()

    @dataclass(frozen=True)
    class Bare:
        """An option without a default."""

        keep: float

        def plan(self):
            return dycoke.Plan()

    for cls, error in ((Silent, "needs a docstring"), (Bare, "option keep of .* needs a plain default")):
        with pytest.raises(TypeError, match=error):
            registry.register("other", **TEXTS)(cls)
    assert "other" not in dycoke.available()


@dataclass(frozen=True)
class Listed:
    """A method that takes several numbers."""

    layers: tuple = field(default=(8, 16), metadata={"help": "layers"})

    def plan(self):
        return Plan()


@pytest.mark.parametrize("missing", [("source",), ("retention",), ("official",), ("retention", "official")])
def test_register_refuses_a_method_without_its_texts(missing):
    with pytest.raises(TypeError, match=f"method 'other': @register needs {', '.join(missing)}, for the table"):
        registry.register("other", **TEXTS | dict.fromkeys(missing, ""))(Listed)
    assert "other" not in dycoke.available()


def test_register_refuses_one_sentence_for_the_list_of_deviations():
    with pytest.raises(TypeError, match=r"deviations='One\.': expected a tuple"):
        registry.register("other", **TEXTS, deviations="One.")(Listed)
    assert "other" not in dycoke.available()


def test_a_list_becomes_a_tuple(monkeypatch):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    registry.register("listed", **TEXTS)(Listed)
    assert dycoke.build("listed", layers=[8, 16]) == dycoke.build("listed")
    assert hash(dycoke.build("listed", layers=[4])) == hash(Listed((4,)))


@pytest.mark.parametrize("name", dycoke.available())
def test_what_a_row_says_is_what_the_plan_at_the_defaults_has(name):
    row, plan = entry(name), dycoke.build(name).plan()
    assert row.stages == tuple(s for s in ("before", "inside", "decode") if getattr(plan, s) is not None) != ()
    assert row.needs == tuple(sorted(plan.before.needs if plan.before else ()))
    assert row.positions in ("packed", "original", "-")
    assert row.retention and row.official and row.source and isinstance(row.deviations, tuple)


def test_rows_of_the_five():
    assert [(entry(name).stages, entry(name).needs, entry(name).positions) for name in ("dycoke", "full")] == [
        (("before", "decode"), (), "packed"),
        (("before",), (), "packed"),
    ]
    assert (entry("dynamic_pruning").stages, entry("dynamic_pruning").positions) == (("decode",), "-")


@dataclass(frozen=True)
class Pruner:
    layer: int

    def prune(self, hidden, visual, scores):
        raise AssertionError("only looked at")


class Renumbering(Pruner):
    positions = "packed"


@pytest.mark.parametrize(
    ("inside", "positions"),
    [(Pruner(2), "original"), (Renumbering(2), "packed"), ((Renumbering(8), Renumbering(16)), "packed")],
)
def test_a_row_of_a_method_inside_the_model(monkeypatch, inside, positions):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))

    @dycoke.register("inner", **TEXTS)
    @dataclass(frozen=True)
    class Inner:
        """Prune inside."""

        def plan(self):
            return dycoke.Plan(inside=inside)

    row = entry("inner")
    assert (row.stages, row.needs, row.positions) == (("inside",), (), positions)


def test_needs_are_sorted(monkeypatch):
    monkeypatch.setattr(registry.entry("random_drop").cls, "needs", frozenset({"saliency", "keys", "query"}))
    assert entry("random_drop").needs == ("keys", "query", "saliency")


def test_a_new_method_is_one_decorated_class(monkeypatch):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))

    @dycoke.register("first_half", **TEXTS, paper="https://example.org")
    @dataclass(frozen=True)
    class FirstHalf:
        """Keep the first half of the frames."""

        def plan(self):
            return dycoke.Plan()

    assert "first_half" in dycoke.available()
    assert isinstance(dycoke.build("first_half"), FirstHalf)
    assert registry.entry("first_half").summary == "Keep the first half of the frames."
    assert registry.name_of(FirstHalf()) == "first_half"


def test_visual_tokens_check_their_shape():
    with pytest.raises(ValueError, match="expected \\[T, N, D\\]"):
        VisualTokens(torch.zeros(9, 4), (3, 3))
    for embeds, grid in ((torch.zeros(2, 9, 4), (2, 4)), (torch.zeros(0, 9, 4), (3, 3))):
        with pytest.raises(ValueError, match="do not fit a grid"):
            VisualTokens(embeds, grid)


def test_what_a_compressor_needs_and_did_not_get_is_named():
    video = VisualTokens(torch.zeros(2, 9, 4), (3, 3), saliency=torch.ones(2, 9))
    assert video.needed("saliency") is video.saliency
    with pytest.raises(ValueError, match="keys: not worked out for this video"):
        dycoke.build("visionzip").compress(video)


def test_plan_checks_its_stages():
    with pytest.raises(TypeError, match=r"Plan.before: 3 is not a Compressor"):
        dycoke.Plan(before=3)
