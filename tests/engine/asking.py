"""Asking a tiny model with a method, in the engine or in the stock loop."""

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

import dycoke
from dycoke.report import Report
from tests.support.decode_small import embeds
from tests.support.subjects import HF_IMAGE, HF_VIDEO

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
    options = {"max_new_tokens": TOKENS, "do_sample": False, **subject.loose, **options}
    return subject.model.generate(**subject.inputs(prompts), suppress_tokens=[HF_VIDEO, HF_IMAGE], **options)


def answers(subject, prompts: list[list], plan, engine: str, **options) -> tuple:
    """Ids and report of a request."""
    with dycoke.attach(subject.model, plan, engine=engine) as run:
        out = ask(subject, prompts, **options)
        report: Report = run.report
        return out, report


class Forced(LogitsProcessor):
    """Notes the logits of every step, and lets nothing but the given ids [n] follow, in every row."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.logits = ids, []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[len(self.logits)]] = 0.0
        self.logits.append(scores.clone())
        return forced


def forced_logits(model, ids: Tensor, plan, engine: str, visual: Tensor | None = None, **inputs) -> Tensor:
    """Logits [n, B, V] in front of each of the ids [n], which a model with a method is made to answer."""
    forced = Forced(ids)
    with dycoke.attach(model, plan, engine=engine, visual=visual) as run:
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": len(ids)}
        model.generate(**inputs, **options, logits_processor=LogitsProcessorList([forced]))
        assert run.report.loop.startswith("engine" if engine == "on" else "stock")
    return torch.stack(forced.logits)


def generate(model, **options) -> Tensor:
    """Greedy ids of a bare language model behind its small prompt."""
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(inputs_embeds=embeds(), **options)


class Heard(BaseStreamer):
    """Keeps what it is fed."""

    def __init__(self) -> None:
        self.put_ids, self.ended = [], False

    def put(self, value):
        self.put_ids.append(value.tolist())

    def end(self):
        self.ended = True
