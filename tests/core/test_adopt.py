"""Stages without their base: what a plan adds to them, what it refuses, and what stays theirs."""

import copy
import pickle
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from dycoke import Plan
from dycoke.bases import Before, Decode, Inside, KeepAll
from dycoke.bases.state import State, adopted_state
from dycoke.types import Compressed


@dataclass(frozen=True)
class Halve:
    """A compressor by protocol alone."""

    options: tuple = ()  # near `option`, which no compressor has
    needs: ClassVar[frozenset[str]] = frozenset({"query"})
    positions: ClassVar[str] = "packed"
    raster: ClassVar[bool] = True

    def compress(self, video):
        index = torch.arange(self.count(*video.embeds.shape[:2]))
        return Compressed(video.embeds.flatten(0, 1)[index], index)

    def count(self, frames, per_frame):
        return frames * per_frame // 2


class Third:
    """A pruner by protocol alone."""

    layer = 3

    def prune(self, hidden, visual, scores):
        return None


class Last:
    """A policy by protocol alone."""

    first_layer = 2

    def budget(self, visual):
        return 1

    def start(self, visual):
        return SimpleNamespace(keep=torch.zeros(len(visual), 1).long())

    def step(self, state, attn):
        pass


def with_attributes(kind: type, **attributes):
    return type(kind.__name__, (kind,), attributes)()


def test_what_a_stranger_leaves_unsaid_is_as_the_base_says():
    plan = Plan(Halve(), Third(), Last())
    before, (inside,), decode = plan.before, plan.pruners, plan.decode
    assert (before.min_frames, before.vision_head, before.bound(4, 9)) == (1, "", 18)
    assert (before.needs, before.count(4, 9)) == (frozenset({"query"}), 18)
    said = (inside.observes, inside.option, inside.behind, inside.evicts, inside.positions, inside.counts)
    assert said == ("previous", "layer", 0, False, "original", "left") and not inside.newlines_compete
    assert (inside.count(9), inside.bound(9, 4)) == (None, 36)
    assert [each.layer for each in inside.start(None)] == [3]
    attention, hidden, index = torch.rand(1, 2, 5), torch.rand(1, 5, 4), torch.tensor([[0, 2]])
    assert torch.equal(inside.join(attention, None, None), attention.mean(1))
    assert torch.equal(inside.merge(hidden, None, index, None), hidden[:, [0, 2]])
    assert (decode.padded_keep, decode.dp_cache) == (False, "device")


@pytest.mark.parametrize("bases", [(torch.nn.Module,), (torch.nn.Module, Before)])
def test_a_module_with_parts_of_its_own_is_a_stage(bases):
    """What dir lists of a torch module is not all there for who looks without calling."""

    class Learned(*bases):
        needs, positions, raster = frozenset(), "packed", True
        compress, count = Halve.compress, Halve.count

        def __init__(self):
            torch.nn.Module.__init__(self)
            self.scorer, self.bias = torch.nn.Linear(4, 1), torch.nn.Parameter(torch.zeros(1))

    before = Plan(before=Learned()).compressor
    assert before.scorer.in_features == 4 and (before.count(4, 9), before.min_frames) == (18, 1)


def test_a_stage_of_one_place_is_looked_at_again_in_another():
    class Both(Last, Third):
        pass

    halve, both = Plan(before=Halve()).before, Plan(decode=Both()).decode
    with pytest.raises(TypeError, match=r"Plan\.decode: Halve.* is not a DecodePolicy"):
        Plan(decode=halve)
    assert Plan(inside=both).pruners[0].observes == "previous" and Plan(decode=both).decode is both


def test_what_a_stranger_says_is_read_whenever_it_is_asked():
    class Changing(Third):
        evicts = True

        @property
        def observes(self):
            return self.asks

    pruner = Changing()
    pruner.asks = "own"
    (inside,) = Plan(inside=pruner).pruners
    assert inside.evicts and inside.observes == "own"
    pruner.asks = "nothing"
    assert inside.observes == "nothing" and inside.asks == "nothing"


def test_an_error_of_a_property_is_no_default():
    class Broken(Third):
        @property
        def evicts(self):
            return self.missing

    with pytest.raises(AttributeError, match="missing"):
        _ = Plan(inside=Broken()).pruners[0].evicts


def test_a_stage_is_named_and_compared_as_its_own():
    plan = Plan(before=Halve())
    assert type(plan.before).__name__ == "Halve" and repr(plan.before) == repr(Halve())
    assert plan == Plan(before=Halve()) == Plan(before=plan.before) != Plan(before=Halve(options=(1,)))
    assert hash(plan) == hash(Plan(before=Halve()))
    for again in (copy.copy(plan), copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert again == plan and again.before.min_frames == 1


def test_a_stage_with_its_base_stays_itself():
    class Ours(Inside):
        layer = 1

        def prune(self, hidden, visual, scores):
            return None

    pruner, compressor = Ours(), KeepAll()
    plan = Plan(compressor, (pruner,))
    assert plan.before is compressor and plan.pruners[0] is pruner
    assert Plan().compressor == KeepAll() and Plan(before=compressor).compressor is compressor


@pytest.mark.parametrize(
    ("place", "kind", "attributes", "meant"),
    [
        ("inside", Third, {"evict": True}, "evicts"),
        ("inside", Third, {"observe": "own"}, "observes"),
        ("inside", Third, {"newline_competes": True}, "newlines_compete"),
        ("inside", Third, {"merges": lambda self, *_: None}, "merge"),
        ("inside", Third, {"behinds": 1}, "behind"),
        ("before", Halve, {"min_frame": 4}, "min_frames"),
        ("before", Halve, {"visionhead": "a/path"}, "vision_head"),
        ("decode", Last, {"padded_keeps": True}, "padded_keep"),
        ("decode", Last, {"dpcache": "host"}, "dp_cache"),
    ],
)
@pytest.mark.parametrize("based", [False, True])
def test_a_misspelt_attribute_is_refused(place, kind, attributes, meant, based):
    (name,) = attributes
    bases = (kind, {"before": Before, "inside": Inside, "decode": Decode}[place]) if based else (kind,)
    stage = type(kind.__name__, bases, attributes)()
    with pytest.raises(TypeError, match=rf"Plan\.{place}: \w+ has {name}=.*did you mean {meant}\?"):
        Plan(**{place: stage})


def test_an_attribute_on_the_object_itself_is_looked_at():
    pruner = Third()
    pruner.evict = True
    with pytest.raises(TypeError, match="Third has evict=True, which nobody reads; did you mean evicts"):
        Plan(inside=pruner)


@pytest.mark.parametrize(
    "attributes",
    [
        {"counts": "entered"},  # a word that is read, near `count`
        {"options": {"keep": 0.5}},  # no text, as `option` is
        {"merged": 3},  # no method, as `merge` is
        {"_evict": True},  # a name of one's own
        {"evict": True, "evicts": True},  # what it is near to is said
        {"state": lambda self: None, "stats": 1, "keep": 0.5, "ratio": 0.25, "tau": 1, "segments": 8},
    ],
)
def test_attributes_of_ones_own_are_no_business_of_ours(attributes):
    assert Plan(inside=with_attributes(Third, **attributes)).pruners[0].layer == 3


@pytest.mark.parametrize(
    ("place", "kind", "attributes"),
    [
        ("inside", Third, {"observes": "last"}),
        ("inside", Third, {"counts": "all"}),
        ("inside", Third, {"positions": "new"}),
        ("before", Halve, {"positions": "new"}),
        ("decode", Last, {"dp_cache": "disk"}),
    ],
)
def test_a_value_nobody_knows_is_refused(place, kind, attributes):
    ((name, value),) = attributes.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: expected one of"):
        Plan(**{place: with_attributes(kind, **attributes)})


def test_a_state_follows_its_rows_and_widens():
    @dataclass
    class Kept(State):
        keep: torch.Tensor
        same: torch.Tensor
        scores: torch.Tensor
        most: int = 3

    keep = torch.tensor([[1, 2], [3, 4]])
    state = Kept(keep, keep, torch.tensor([0.5, 0.25]))
    assert adopted_state(state, 2) is state and state.own is state and state.counted is None
    assert set(state.tensors()) == {"keep", "same", "scores"} and state.constants() == {"most": 3}
    state.select(torch.tensor([1, 0]))
    assert state.keep is state.same and state.keep.tolist() == [[3, 4], [1, 2]] and keep.tolist() == [[1, 2], [3, 4]]
    assert state.scores.tolist() == [0.25, 0.5]
    state.widen(1)
    assert state.keep.shape == (2, 2)
    state.widen(3)
    assert state.keep.tolist() == state.same.tolist() == [[3, 4, -1], [1, 2, -1]] and state.scores.shape == (2,)
    other = Kept(torch.full((2, 3), 7), torch.full((2, 3), 8), torch.zeros(2))
    held = state.keep
    state.fill(other)
    assert held is state.keep and state.keep.unique().tolist() == [7] and state.scores.tolist() == [0.0, 0.0]


def test_slots_of_a_state_follow_its_rows():
    class Kept(State):
        __slots__ = ("keep", "unset")

        def __init__(self):
            self.keep, self.scores = torch.tensor([[1], [2]]), torch.tensor([0.5, 0.25])

    class More(Kept):
        __slots__ = "chosen"

    state = More()
    state.chosen = torch.tensor([4, 5])
    assert set(state.tensors()) == {"keep", "scores", "chosen"} and state.constants() == {}
    state.select(torch.tensor([1, 1]))
    assert (state.keep.tolist(), state.scores.tolist(), state.chosen.tolist()) == ([[2], [2]], [0.25, 0.25], [5, 5])


@dataclass(slots=True, frozen=True)
class Slots:
    keep: torch.Tensor
    selections: torch.Tensor


def test_a_strangers_state_is_changed_as_its_own():
    theirs = Slots(torch.tensor([[1], [2]]), torch.tensor([4, 5]))
    state = adopted_state(theirs, 2)
    state.select(torch.tensor([1, 1]))
    assert state.own is theirs and theirs.keep.tolist() == [[2], [2]] == state.keep.tolist()
    assert state.counted is theirs.selections and theirs.selections.tolist() == [5, 5]
    assert adopted_state(SimpleNamespace(keep=torch.zeros(2, 1)), 2).counted is None


def test_a_value_in_the_place_of_a_method_of_state_is_refused():
    """It would be called when the rows of a request are filled anew."""

    class Shadowing(State):
        def __init__(self):
            self.keep, self.fill = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1)

    with pytest.raises(TypeError, match=r"state Shadowing: fill is a name of dycoke\.bases\.State; rename it"):
        adopted_state(Shadowing(), 1)
