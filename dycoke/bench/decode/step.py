"""A whole decode step at batch 1: stock, our cache read whole, and dynamic pruning; in CUDA graphs and eagerly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, StaticCache

from dycoke.bases.dynamic_pruning import DynamicPruning
from dycoke.bench.decode.check import check_agree, check_loop
from dycoke.bench.decode.model import FULL, STOCK, Loop, Prompt, make_prompt, running
from dycoke.bench.decode.setting import Setting
from dycoke.bench.rounds import ratio, row
from dycoke.bench.timing import WARM_UPS, Captured, Times, capture, stream_step, time_graphs, time_on_host

FIRST_STEPS = 3  # eager ones ahead of a capture
DP, EVERY = "dp", "dp_every_step"
UNTOUCHED = "_untouched"  # the prompt as it is without temporal merging
STREAM_BYTES = 2**31
ALIGNED = 64  # columns a static cache is rounded up to, which its attention kernels ask for


@dataclass(frozen=True)
class Version:
    """A loop to be timed. method as in `running`; static: a stock loop has a static cache."""

    method: str | DynamicPruning
    prompt: Prompt
    static: bool = True

    def cache(self, model: nn.Module, room: int) -> Cache | None:
        if self.method != STOCK or not self.static:
            return None
        length = self.prompt.embeds.shape[1] + room
        return StaticCache(config=model.config, max_cache_len=-(-length // ALIGNED) * ALIGNED)


def measure_step(model: nn.Module, setting: Setting) -> dict[str, Any]:
    """Rows and ratios of the captured loops (none on a CPU) and of the eager ones, with what was checked.

    Raises RuntimeError if a loop did not do what it was timed for.
    """
    merged, whole = make_prompt(model, setting.visual), make_prompt(model, setting.frames * setting.tokens)
    measured: dict[str, Any] = {
        "tokens": {"prompt": setting.prompt, "untouched": setting.untouched, "read_by_pruned_layers": setting.kept},
        "first_logits_apart": _compare_first(model, setting, merged),
    }
    if torch.cuda.is_available():
        graphs = {
            STOCK: Version(STOCK, merged),
            FULL: Version(FULL, merged),
            DP: Version(setting.pruning(), merged),
            EVERY: Version(setting.pruning(refresh=1.0), merged),
            STOCK + UNTOUCHED: Version(STOCK, whole),
            FULL + UNTOUCHED: Version(FULL, whole),
        }
        rows = _time_captured(model, graphs, setting)
        measured["graphs"] = {
            "results": rows,
            "ratios": [
                ratio(rows, *pair)
                for pair in ((DP, FULL), (EVERY, FULL), (DP, STOCK), (FULL, STOCK), (EVERY, STOCK + UNTOUCHED))
            ],
        }
    eager = {
        STOCK: Version(STOCK, merged, static=False),
        FULL: Version(FULL, merged),
        DP: Version(setting.pruning(), merged),
        EVERY: Version(setting.pruning(refresh=1.0), merged),
    }
    rows = _time_eager(model, eager, setting)
    pairs = ((DP, FULL), (EVERY, FULL), (DP, STOCK), (FULL, STOCK))
    measured["eager"] = {"results": rows, "ratios": [ratio(rows, *pair) for pair in pairs]}
    return measured


def _compare_first(model: nn.Module, setting: Setting, prompt: Prompt) -> float:
    """How far apart the first step's logits of FULL and STOCK are; they are the same sums in another order."""
    logits = []
    for method in (STOCK, FULL):
        with running(model, method, prompt):
            logits.append(Loop(model, prompt, None, room=1).step())
    return check_agree(*logits, setting.torch_dtype)


def _time_captured(model: nn.Module, versions: dict[str, Version], setting: Setting) -> list[dict[str, Any]]:
    timed = setting.rounds * setting.repeat
    ran = FIRST_STEPS + 2 * WARM_UPS + timed + 1  # capturing and timing warm up alike; the last one is checked
    loops: dict[str, Loop] = {}
    graphs: dict[str, Captured] = {}
    for name, version in versions.items():
        with running(model, version.method, version.prompt):
            loops[name] = Loop(model, version.prompt, version.cache(model, ran), room=ran + 1)
            for _ in range(FIRST_STEPS):
                loops[name].step()
            graphs[name] = capture(loops[name].step)

    queueing = stream_step(STREAM_BYTES)

    def poison() -> None:
        queueing()  # a millisecond of work, behind which the host queues a graph of a thousand kernels
        for captured in graphs.values():
            captured.output.fill_(torch.nan)

    times = time_graphs(graphs, timed, poison)
    poison()
    for name, captured in graphs.items():
        captured.graph.replay()
        check_loop(name, loops[name], captured.output, versions[name].prompt.embeds.shape[1], ran)
        _check_choices(name, loops[name], ran)
    return [row(name, measured, setting.rounds) for name, measured in times.items()]


def _time_eager(model: nn.Module, versions: dict[str, Version], setting: Setting) -> list[dict[str, Any]]:
    """Rounds in turn. The host waits at the end of a step, as stock `generate` does to see whether to stop."""
    ran = WARM_UPS + setting.repeat
    samples: dict[str, tuple[float, ...]] = dict.fromkeys(versions, ())
    for _ in range(setting.rounds):
        for name, version in versions.items():
            with running(model, version.method, version.prompt):
                loop = Loop(model, version.prompt, version.cache(model, ran), room=ran)
                samples[name] += time_on_host(lambda loop=loop: loop.step()[0, 0].item(), setting.repeat).samples
                check_loop(name, loop, loop.step(), version.prompt.embeds.shape[1], ran + 1)
                _check_choices(name, loop, ran + 1)
    return [row(name, Times(taken), setting.rounds) for name, taken in samples.items()]


def _check_choices(name: str, loop: Loop, ran: int) -> None:
    """Raises RuntimeError unless EVERY chose anew at every step, and DP at least once."""
    request = loop.request
    if request is None or request.policy is None:
        return
    chosen = int(request.use.selections.sum())
    if not (chosen == ran if name == EVERY else 1 <= chosen <= ran):
        raise RuntimeError(f"{name}: chose {chosen} times in {ran} steps")
