"""Requests on one model that carries a method take turns, whichever threads they come from; what is a thread's own.

A call holds its model's lock for its whole length: `generate`, or one forward pass. Models do not wait for each other.
What a prefill leaves for its decode steps goes by its cache, so that loops of forward passes may alternate.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from dycoke.report import Recorder

T = TypeVar("T")
NOT_ONE_GRAPH = "a method is attached, whose hooks read tensors; compile without fullgraph=True, or remove it first"
# For the moment in which a method is put on or taken off: some of what that touches, models may share. Whoever holds it
# waits for no model.
ATTACHING = threading.RLock()


class Turns:
    """The turns of the calls of one model. A call inside a call, of the same thread, goes on at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calls = 0  # under way, all of the thread that has the lock

    @contextmanager
    def take(self) -> Iterator[bool]:
        """Within the context it is this thread's turn, for which it waits; says whether it was its turn before."""
        with self._lock:
            self._calls += 1
            try:
                yield self._calls > 1
            finally:
                self._calls -= 1

    @contextmanager
    def between(self) -> Iterator[None]:
        """Within the context no call is under way. Raises RuntimeError inside a call of the same thread."""
        with self._lock:
            if self._calls:
                raise RuntimeError(
                    "the method cannot be removed inside a request of its model, as from a streamer, a stopping "
                    "criterion or a hook; remove it when the request is over"
                )
            yield


class OfThread(Generic[T]):
    """An attribute that every thread has for itself, `default` until it sets one. The object has a `_of_thread`."""

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        return self if owner is None else getattr(owner._of_thread, self._name, self._default)

    def __set__(self, owner: Any, value: T) -> None:
        setattr(owner._of_thread, self._name, value)


class Attached:
    """What is on a model with a method: it cannot be copied or pickled, for the copy would go on reporting to it."""

    def __reduce_ex__(self, protocol: int) -> Any:
        raise TypeError("a model that carries a method cannot be copied or pickled; remove the method first")


class StandIn(Attached):
    """In the place of a method of one model until `leave`, an attribute of the instance. Holds the model weakly.

    covered: what somebody had put there before, which is called and comes back; None for the method of the class.
    """

    name: str

    def __init__(self, model: nn.Module, turns: Turns) -> None:
        self._model, self._turns, self._attached = weakref.ref(model), turns, True
        self.covered: Callable[..., Any] | None = vars(model).get(self.name)
        self.__signature__ = inspect.signature(getattr(model, self.name))  # which callers ask for the arguments

    def install(self, undo: ExitStack) -> None:
        """Take the place, with the way back on `undo`."""
        setattr(self._model(), self.name, self)
        undo.callback(_leave, weakref.ref(self))  # what undoes it must not keep the model

    def leave(self) -> None:
        """Give the model its own method back, unless somebody has put another there meanwhile."""
        self._attached = False
        model = self._model()
        if model is None or vars(model).get(self.name) is not self:
            return
        if self.covered is None:
            delattr(model, self.name)
        else:
            setattr(model, self.name, self.covered)

    def usual(self) -> Callable[..., Any]:
        """What would be called without us."""
        model = self._model()
        if model is None:
            raise ReferenceError(f"{self.name} of a model that is gone")
        return self.covered or getattr(type(model), self.name).__get__(model)


class QueuedForward(StandIn):
    """One forward pass, when it is its turn."""

    name = "forward"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # what is called below is compiled by itself
            torch._dynamo.graph_break(msg=NOT_ONE_GRAPH)
        with self._turns.take():
            return self.usual()(*args, **kwargs)


class QueuedGenerate(StandIn):
    """One `generate`, when it is its turn; the report of the thread tells of the outermost."""

    name = "generate"

    def __init__(self, model: nn.Module, turns: Turns, recorder: Recorder) -> None:
        super().__init__(model, turns)
        self._recorder = recorder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's own `generate` takes and returns."""
        with self._turns.take() as inside:
            if not self._attached:
                return self.usual()(*args, **kwargs)
            with self._recorder.apart() if inside else nullcontext():
                return self.answer(inside, args, kwargs)

    def answer(self, inside: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        """inside: another call of this thread is under way on the model."""
        return self.usual()(*args, **kwargs)


def own_method(module: nn.Module, name: str) -> Any:
    """What somebody has put in the place of a method of a module's instance, other than us; None if nobody has."""
    own = vars(module).get(name)
    return own.covered if isinstance(own, StandIn) else own


def _leave(stand_in: weakref.ref) -> None:
    if stand_in() is not None:
        stand_in().leave()
