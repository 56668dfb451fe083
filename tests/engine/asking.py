"""Asking a tiny model with a method, in the engine or in the stock loop."""

import dycoke
from dycoke.report import Report
from tests.core.subjects import HF_IMAGE, HF_VIDEO

TOKENS = 8
OPTIONS = {
    "dycoke": {"l": 2},
    "dynamic_pruning": {"layer": 2},
    "fastv": {"k": 1},
    "pdrop": {"layers": (1, 2)},
    "sparsevlm": {"layers": (0, 1, 2)},
    "holitom": {"layer": 1},
    "flashvid": {"layer": 1},
    "prunevid": {"layer": 2},
}


def method(name: str, **more):
    """A method whose layers a tiny model of four has."""
    return dycoke.build(name, **OPTIONS.get(name, {}) | more)


def ask(subject, prompts: list[list], **options):
    """Greedy ids of a few tokens, with whatever the model carries."""
    options = {"max_new_tokens": TOKENS, "do_sample": False, **options}
    return subject.model.generate(**subject.inputs(prompts), suppress_tokens=[HF_VIDEO, HF_IMAGE], **options)


def answers(subject, prompts: list[list], plan, engine: str, **options) -> tuple:
    """Ids and report of a request."""
    with dycoke.attach(subject.model, plan, engine=engine) as run:
        out = ask(subject, prompts, **options)
        report: Report = run.report
        return out, report
