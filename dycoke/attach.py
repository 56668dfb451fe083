"""Put a method on a model and take it off again.

with dycoke.attach(model, dycoke.build("dycoke", k=0.7)) as run:
    out = model.generate(**inputs)      # the stock call
print(run.report)
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dycoke.engine import install as engine_install
from dycoke.engine.hooks import hooks_on
from dycoke.families import adapter_for
from dycoke.registry import name_of
from dycoke.report import Recorder, Report
from dycoke.turns import ATTACHING, QueuedForward, Turns
from dycoke.types import Method, Plan


class Run:
    """A method on a model: `report` tells what the latest request cost, `remove` takes the method off.

    plan: what the method does at each stage.
    """

    def __init__(self, name: str, plan: Plan, recorder: Recorder, turns: Turns, undo: ExitStack) -> None:
        self.name = name
        self.plan = plan
        self._recorder = recorder
        self._turns = turns
        self._undo = undo

    @property
    def report(self) -> Report:
        """Tokens, milliseconds and peak bytes by stage of the latest request of the thread that asks.

        A thread that has made none is told of the latest of all. Raises RuntimeError before the first.
        """
        return self._recorder.report

    def remove(self) -> None:
        """Give the model back as it was, once the request that another thread has under way is over.

        Removing twice does nothing. Raises RuntimeError inside a request of the thread's own.
        """
        with self._turns.between(), ATTACHING:
            self._undo.close()


# Weak keys: a model that goes away takes its entry along. A Run holds no strong reference to its model.
_runs: weakref.WeakKeyDictionary[nn.Module, Run] = weakref.WeakKeyDictionary()


ENGINES = ("auto", "on", "off")
# Where transformers' generate and nn.Module.compile keep what they compiled.
_COMPILED = ("_compiled_call", "_compiled_call_impl")


def apply(
    model: nn.Module,
    method: Method | Plan,
    *,
    visual: Tensor | None = None,
    trace: bool = False,
    engine: Literal["auto", "on", "off"] = "auto",
) -> Run:
    """Put a method (or a plan) on a model until `remove(model)`. Until then its `generate` runs uncompiled.

    Threads that use the model meanwhile queue: a `generate`, or a forward pass, begins when the one before it is over.

    visual [B, S] bool: the visual slots of the prompts of a bare language model, for it alone. trace: note which
    columns every decode step reads, for `run.report.keeps`; it costs memory and time. engine: whether `generate`
    decodes in our engine: "auto" on CUDA where it can, "on" anywhere or not at all, "off" in the stock loop;
    `run.report.loop` says which it was.
    Raises TypeError if `method` is neither, ValueError if the model's family has no adapter (naming those that have),
    the model carries a method already, the adapter lacks something the plan needs, or engine="on" cannot be had.
    """
    name, plan = _resolve(method)
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: expected one of {', '.join(ENGINES)}")
    with ATTACHING:
        return _put_on(model, name, plan, visual, trace, engine)


def _put_on(model: nn.Module, name: str, plan: Plan, visual: Tensor | None, trace: bool, engine: str) -> Run:
    if model in _runs:
        raise ValueError(f"{type(model).__name__} carries the method {_runs[model].name!r} already; remove it first")
    adapter = adapter_for(model)
    devices = sorted({p.device for p in model.parameters()}, key=str)
    recorder, turns = Recorder(name, devices), Turns()
    with ExitStack() as undo:
        _run_uncompiled(model, undo)
        carried = hooks_on(model)
        adapter.install(plan, recorder, undo, visual, trace)
        engine_install.install(model, adapter, plan, recorder, turns, undo, engine, trace, carried)
        QueuedForward(model, turns).install(undo)
        run = Run(name, plan, recorder, turns, undo.pop_all())
    _runs[model] = run
    weak = weakref.ref(model)
    run._undo.callback(lambda: _runs.pop(weak(), None) if weak() is not None else None)
    return run


def _run_uncompiled(model: nn.Module, undo: ExitStack) -> None:
    """Keep compiled code from passing our hooks by: torch.compile checks no hooks when it reuses what it compiled."""
    _forget_compiled(weakref.ref(model))
    undo.callback(_forget_compiled, weakref.ref(model))
    if hasattr(model, "generate"):
        # What generate asks before it compiles for a static cache. A setting of generation_config would be saved along.
        model._valid_auto_compile_criteria = _never
        undo.callback(_compile_again, weakref.ref(model))


def _never(*_: Any, **__: Any) -> bool:
    return False


def _compile_again(model: weakref.ref) -> None:
    if model() is not None:
        vars(model()).pop("_valid_auto_compile_criteria", None)


def _forget_compiled(model: weakref.ref) -> None:
    held = model()
    for module in () if held is None else held.modules():
        # A forward of the instance's own is how users compile one module of a model.
        if "forward" in vars(module) or any(getattr(module, name, None) is not None for name in _COMPILED):
            torch.compiler.reset()
            return


def attached(model: nn.Module) -> Run:
    """The run of the method a model carries, for one that was loaded with it. Raises ValueError if it carries none."""
    if model not in _runs:
        raise ValueError(f"{type(model).__name__} carries no method")
    return _runs[model]


def plan_of(model: nn.Module) -> Plan | None:
    """The plan of the method a model carries, None if it carries none."""
    return _runs[model].plan if model in _runs else None


def remove(model: nn.Module) -> None:
    """Take the method off a model, as `Run.remove` does. Raises ValueError if it carries none."""
    attached(model).remove()


@contextmanager
def attach(
    model: nn.Module,
    method: Method | Plan,
    *,
    visual: Tensor | None = None,
    trace: bool = False,
    engine: Literal["auto", "on", "off"] = "auto",
) -> Iterator[Run]:
    """`apply` for the length of a block; the model is given back at its end, also by an exception."""
    run = apply(model, method, visual=visual, trace=trace, engine=engine)
    try:
        yield run
    finally:
        run.remove()


def _resolve(method: Method | Plan) -> tuple[str, Plan]:
    if isinstance(method, Plan):
        return "plan", method
    if isinstance(method, Method) and not isinstance(method, type):
        plan = method.plan()
        if not isinstance(plan, Plan):
            raise TypeError(f"{type(method).__name__}.plan() returned {plan!r}: expected a dycoke.Plan")
        return name_of(method), plan
    raise TypeError(f"expected a method from dycoke.build(...) or a dycoke.Plan, got {method!r}")
