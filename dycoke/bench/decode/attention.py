"""The attention part of a decode step: every layer over the whole cache, and dynamic pruning, observer and all."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dycoke.bases.dynamic_pruning import DynamicPruning
from dycoke.bench.decode.check import check_attention, check_choice
from dycoke.bench.decode.setting import TEXT, Setting
from dycoke.bench.timing import WARM_UPS, Step, Times, capture, ratio, row, stream_step, time_graphs, time_on_host
from dycoke.kv_cache.request import TAIL, DecodeRequest

ANSWERED = 8  # decoded tokens in every layer's tail
DENSE, SDPA, EVERY, CARRIED, STREAM = "dense", "torch_sdpa", "dp_every_step", "dp_carried_on", "stream"
STREAM_BYTES = 2**31


def measure_attention(setting: Setting) -> dict[str, Any]:
    """Rows, ratios and bytes of the attention of all layers in one step. Raises RuntimeError if a version is wrong."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = _Layers(setting, device)
    times = _on_gpu(layers, setting) if device == "cuda" else _on_cpu(layers, setting)
    return _results(times, setting)


class _Layers:
    """Random keys, values and queries of every layer, and the requests that read them: one store for all."""

    def __init__(self, setting: Setting, device: str) -> None:
        shape, self.batch = setting.model, setting.batch
        self.setting, self.scale = setting, shape.head_dim**-0.5
        self.generator = torch.Generator(device).manual_seed(2)
        self.rows = sorted({0, self.batch // 2, self.batch - 1})
        column = torch.arange(setting.prompt, device=device)
        self.visual = (column >= TEXT // 2) & (column < TEXT // 2 + setting.visual)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=self.generator, device=device, dtype=setting.torch_dtype)

        def entries(columns: int) -> tuple[Tensor, Tensor]:
            # As prefill leaves them, keys too: a column's heads side by side.
            sizes = (self.batch, columns, shape.kv_heads, shape.head_dim)
            return normal(*sizes).transpose(1, 2), normal(*sizes).transpose(1, 2)

        self.stores = [entries(setting.prompt) for _ in range(shape.layers)]
        queries = [normal(self.batch, shape.heads, 1, shape.head_dim) for _ in range(shape.layers)]
        changing = [*queries]
        changing[setting.l - 1] = queries[setting.l - 1].clone()
        self.queries = {DENSE: queries, SDPA: queries, CARRIED: queries, EVERY: changing}
        answer = [[entries(1) for _ in range(shape.layers)] for _ in range(ANSWERED)]
        self.requests = {
            name: self._request(policy, answer)
            for name, policy in (
                (DENSE, None),
                (EVERY, setting.pruning(refresh=1.0)),
                (CARRIED, setting.pruning()),
            )
        }

    def _request(self, policy: DynamicPruning | None, answer: list[list[tuple[Tensor, Tensor]]]) -> DecodeRequest:
        keys = self.stores[0][0]
        visual = self.visual.expand(self.batch, -1)
        shape = (self.batch, self.setting.prompt)
        request = DecodeRequest(policy, len(self.stores), shape, keys.device, None, visual, tail=TAIL)
        for layer, store in enumerate(self.stores):
            request.fill(layer, *store)
        for token in answer:
            request.advance()
            for layer, new in enumerate(token):
                request.append(layer, *new)
            request.abandon()  # nothing was read, so there is nothing to count
        return request

    def steps(self) -> dict[str, Step]:
        """The attention of all layers by each version; every one returns its layers' outputs."""

        def attend(name: str) -> list[Tensor]:
            request = self.requests[name]
            return [request.attend(layer, query, self.scale) for layer, query in enumerate(self.queries[name])]

        def sdpa() -> list[Tensor]:
            function, scale = torch.nn.functional.scaled_dot_product_attention, self.scale
            both = zip(self.queries[SDPA], self.stores, strict=True)
            return [function(query, *store, scale=scale, enable_gqa=True) for query, store in both]

        return {name: sdpa if name == SDPA else partial(attend, name) for name in (DENSE, SDPA, EVERY, CARRIED)}

    def disturb(self, outputs: list[list[Tensor]]) -> None:
        """Poison what a step writes, and give the observer of EVERY another query, that it may choose other columns."""
        for written in chain.from_iterable(outputs):
            written.fill_(torch.nan)
        self.queries[EVERY][self.setting.l - 1].normal_(generator=self.generator)
        for name in (EVERY, CARRIED):
            reads = self.requests[name].columns(self.visual.device).pruned
            if reads is not None:
                reads.index.fill_(-1)
                reads.count.zero_()

    def check(self, outputs: dict[str, list[Tensor]], ran: int) -> None:
        """Judge the last step's outputs of a whole, the observing and a pruned layer; `ran` steps were taken."""
        observer, last = self.setting.l - 1, len(self.stores) - 1
        for name, request in self.requests.items():
            columns, attn = request.columns(self.visual.device), None
            for layer in sorted({0, observer, last}):
                reads = columns.whole if layer < request.pruned_from else columns.pruned
                query, store = self.queries[name][layer], request.store(layer)
                exact = check_attention(name, outputs[name][layer], query, store, reads, self.scale, self.rows)
                attn = exact if layer == observer else attn
            if request.policy is None:
                continue
            check_choice(name, attn, columns.pruned, self.visual, self.setting.kept - TEXT, self.rows)
            chosen, expected = request.use.selections.unique().tolist(), ran if name == EVERY else 1
            if chosen != [expected]:
                raise RuntimeError(f"{name}: rows chose {chosen} times in {ran} steps; expected {expected}")


def _on_gpu(layers: _Layers, setting: Setting) -> dict[str, Times]:
    graphs = {name: capture(step) for name, step in layers.steps().items()}
    outputs = {name: captured.output for name, captured in graphs.items()}

    def disturb() -> None:
        layers.disturb(list(outputs.values()))

    def replay_and_check(ran: int) -> None:
        disturb()
        for captured in graphs.values():
            captured.graph.replay()
        layers.check(outputs, ran)

    replay_and_check(WARM_UPS + 1)
    timed = setting.rounds * setting.repeat
    times = time_graphs(graphs | {STREAM: capture(stream_step(STREAM_BYTES))}, timed, disturb)
    replay_and_check(2 * WARM_UPS + timed + 2)
    return times


def _on_cpu(layers: _Layers, setting: Setting) -> dict[str, Times]:
    steps, ran = layers.steps(), setting.rounds * (WARM_UPS + setting.repeat) + 1
    samples: dict[str, tuple[float, ...]] = dict.fromkeys(steps, ())
    for _ in range(setting.rounds):
        for name, step in steps.items():
            layers.disturb([])
            samples[name] += time_on_host(step, setting.repeat).samples
    layers.disturb([])
    layers.check({name: step() for name, step in steps.items()}, ran)
    return {name: Times(taken) for name, taken in samples.items()}


def bytes_moved(setting: Setting) -> dict[str, int]:
    """Keys and values that each version must read at least; torch's attention has no decoded tokens here."""
    layers, column = setting.model.layers, setting.batch * setting.model.column_bytes(setting.torch_dtype)
    whole, pruned = setting.prompt + ANSWERED, setting.kept + ANSWERED
    dynamic = (setting.l * whole + (layers - setting.l) * pruned) * column
    return {
        DENSE: layers * whole * column,
        SDPA: layers * setting.prompt * column,
        EVERY: dynamic,
        CARRIED: dynamic,
        STREAM: 2 * STREAM_BYTES,
    }


def _results(times: dict[str, Times], setting: Setting) -> dict[str, Any]:
    moved = bytes_moved(setting)
    rows = [row(name, measured, setting.rounds) for name, measured in times.items()]
    for each in rows:
        each["bytes"] = moved[each["version"]]
        each["gb_per_s"] = each["bytes"] / each["median_ms"] / 1e6
    return {
        "batch": setting.batch,
        "results": rows,
        "byte_ratio": moved[DENSE] / moved[EVERY],
        "ratios": [ratio(rows, *pair) for pair in ((DENSE, EVERY), (DENSE, CARRIED), (SDPA, EVERY))],
    }
