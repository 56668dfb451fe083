"""Every call of `calls` answers with a method that keeps everything as it does untouched, or is refused by name."""

import functools
import re
import warnings
from dataclasses import asdict, is_dataclass

import pytest
import torch

from tests.conformance.calls import CALLS
from tests.conformance.cases import METHODS, Case

ENGINES = ("off", "on")
# In the engine a method that keeps all in its cache goes the longer way; the other one goes it where it matters.
STOCK_ALONE = {("full", name) for name, each in CALLS.items() if not each.refused and "padding" not in name}


@functools.cache
def kept(family: str) -> Case:
    """The model of a family that calls leave as it is."""
    return Case(family)


def answer(call, case):
    torch.manual_seed(0)
    with torch.set_grad_enabled(call.run.__name__ in ("labels", "training")):
        return call.run(case)


def assert_same(got, want, tolerance: float, at: str) -> None:
    """The same parts, and the same numbers: to the tolerance where they are no integers."""
    if isinstance(want, torch.Tensor):
        assert isinstance(got, torch.Tensor), at
        exact = not want.is_floating_point()
        bounds = {"atol": 0 if exact else tolerance, "rtol": 0 if exact else tolerance}
        torch.testing.assert_close(got, want, **bounds, msg=lambda text: f"{at}: {text}")
    elif isinstance(want, dict):
        assert list(got) == list(want), at
        for key, value in want.items():
            assert_same(got[key], value, tolerance, f"{at}.{key}")
    elif isinstance(want, list | tuple) and not isinstance(want, torch.Size):
        assert len(got) == len(want), at
        for number, (one, other) in enumerate(zip(got, want, strict=True)):
            assert_same(one, other, tolerance, f"{at}[{number}]")
    else:
        assert not is_dataclass(want) or asdict(got) == asdict(want), at
        assert got == want, at


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_call(name):
    call = CALLS[name]
    for family in call.families:
        served = call.may or set(METHODS) - set(call.refused)
        want = answer(call, Case(family) if call.changes else kept(family)) if served else None
        for method, options in METHODS.items():
            for engine in ENGINES[:1] if not call.engine or (method, name) in STOCK_ALONE else ENGINES:
                case, at = Case(family) if call.changes else kept(family), f"{family} {method} {engine}"
                with case.attached(options, engine):
                    try:
                        got = answer(call, case)
                    except Exception as refusal:
                        said = call.refused.get(method)
                        if said is None:
                            raise
                        assert re.search(said, str(refusal)), f"{at}: {refusal}"
                        continue
                assert method not in call.refused or call.may, f"{at}: not refused"
                assert_same(got, want, call.tolerance, at)


def test_the_comparison_can_fail():
    """A method that prunes answers otherwise, in the calls that decode."""
    case = kept("qwen2")
    want = case.generate(return_dict_in_generate=True, output_logits=True).logits
    with case.attached({"name": "dynamic_pruning", "layer": 1, "p": 0.9}):
        got = case.generate(return_dict_in_generate=True, output_logits=True).logits
    with pytest.raises(AssertionError):
        assert_same(got, want, 2e-5, "pruned")


@pytest.mark.parametrize("family", ["hf_video", "qwen2"])
@torch.no_grad()
def test_compiled_in_one_graph(family):
    """Hooks decide by what they read, which is no matter of one graph: said so, and not as a crash inside of it."""
    case = Case(family)
    for method in METHODS.values():
        with case.attached(method):
            compiled = torch.compile(case.model, backend="eager", fullgraph=True)
            with pytest.raises(Exception, match="without fullgraph=True, or remove it first"):
                compiled(input_ids=torch.arange(5, 17)[None], use_cache=False)


@pytest.mark.parametrize("family", ["hf_video", "llava", "qwen2", "llama"])
def test_no_word_of_deprecation(family, caplog, monkeypatch):
    """transformers says such a thing once in a process: here at every opportunity."""
    from transformers.utils import logging

    logger = logging.get_logger("transformers")
    monkeypatch.setattr(type(logger), "warning_once", type(logger).warning, raising=False)
    monkeypatch.setattr(logger, "propagate", True)
    case = Case(family)
    methods = [*METHODS.values(), {"name": "fastv", "k": 1, "r": 0.5}]
    methods += [] if case.bare else [{"name": "random_drop", "keep": 0.5}]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", FutureWarning)
        for method in methods:
            for engine in ("off", "on"):
                with case.attached(method, engine) as run:
                    case.generate(batch=True)
                    case.generate(num_beams=2)
                    case.generate(cache_implementation="static")
                    case.model(**case.inputs)
                    assert run.report
    assert not [record for record in caplog.records if "deprecat" in record.getMessage()]
