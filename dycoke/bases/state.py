"""What a decode policy knows about a request: a base that follows the rows of a batch, for beams and CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class State:
    """Base of what a policy knows about one request: `dycoke.types.PolicyState` says what is asked of it.

    Every tensor attribute has a row for each row of the batch. An attribute selections [B], where there is one, counts
    how often each row chose anew, for the report.
    """

    keep: Tensor

    @property
    def own(self) -> Any:
        """The object that `start` of the policy made, for its `step`."""
        return self

    @property
    def counted(self) -> Tensor | None:
        """Its `selections`; None where it does not count them. A default would be that of a dataclass, too."""
        return getattr(self.own, "selections", None)

    def attributes(self) -> dict[str, Any]:
        """All it holds, by name, names ascending; `keep` may be an attribute of its class."""
        own = self.own
        declared = [each.name for each in fields(own)] if is_dataclass(own) else []
        for slots in (vars(kind).get("__slots__", ()) for kind in type(own).__mro__):
            declared += [slots] if isinstance(slots, str) else slots
        names = sorted({"keep", *declared, *getattr(own, "__dict__", ())} - {"__dict__", "__weakref__"})
        return {name: getattr(own, name) for name in names if hasattr(own, name)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors among them."""
        return {name: each for name, each in self.attributes().items() if isinstance(each, torch.Tensor)}

    def constants(self) -> dict[str, Any]:
        """The others, which a CUDA graph would keep for every request."""
        return {name: each for name, each in self.attributes().items() if not isinstance(each, torch.Tensor)}

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors in place of those of their names, frozen or not."""
        for name, tensor in tensors.items():
            object.__setattr__(self.own, name, tensor)

    def select(self, rows: Tensor) -> None:
        """Give each row the values of row rows[b], as beam search asks; two names of one tensor stay one.

        New tensors are taken: those of before may be the policy's own.
        """
        before = self.tensors()
        moved = {id(each): each.index_select(0, rows.to(each.device)) for each in before.values()}
        self.replace({name: moved[id(each)] for name, each in before.items()})

    def widen(self, width: int) -> None:
        """Fill `keep`, and every tensor of its shape, up to `width` columns with -1, which marks no column."""
        shape, more = self.keep.shape, width - self.keep.shape[1]
        if more > 0:
            alike = {name: each for name, each in self.tensors().items() if each.shape == shape}
            self.replace({name: torch.nn.functional.pad(each, (0, more), value=-1) for name, each in alike.items()})

    def fill(self, other: State) -> None:
        """Copy the values of another state of the same shapes into the tensors of this one."""
        for to, of in zip(self.tensors().values(), other.tensors().values(), strict=True):
            to.copy_(of)


def adopted_state(state: Any, batch: int) -> State:
    """A policy's state as a `State`: itself, where it is one, or around an object whose attributes can be set.

    Raises TypeError for any other object, without a tensor `keep`, or with a value in the place of a method of `State`;
    ValueError unless `keep` is [batch, W].
    """
    if not isinstance(state, State):
        state = AdoptedState(state)
    taken = sorted(_OF_STATE.intersection(state.attributes()))
    if taken and type(state) is not AdoptedState:
        raise TypeError(f"state {type(state).__name__}: {', '.join(taken)} is a name of dycoke.bases.State; rename it")
    keep = state.attributes().get("keep")
    if not isinstance(keep, torch.Tensor):
        raise TypeError(f"state {type(state.own).__name__}: expected an attribute keep, int64 [B, W]")
    if keep.ndim != 2 or keep.shape[0] != batch:
        raise ValueError(f"state.keep of shape {tuple(keep.shape)}: expected [{batch}, W]")
    return state


_OF_STATE = frozenset(name for name in vars(State) if not name.startswith("_"))


class AdoptedState(State):
    """A stranger's state."""

    def __init__(self, state: Any) -> None:
        if not (hasattr(state, "__dict__") or hasattr(state, "__dataclass_fields__")):
            raise TypeError(
                f"state {type(state).__name__}: expected an object whose attributes can be set, to reorder beams"
            )
        self._own = state

    @property
    def own(self) -> Any:
        return self._own

    @property
    def keep(self) -> Tensor:
        return self._own.keep
