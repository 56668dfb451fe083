"""The stock model's decode step on a static cache, in a CUDA graph: the fastest that transformers has of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.cache_utils import StaticCache

from dycoke.bench.decode.check import check_loop
from dycoke.bench.decode.model import Loop, Prompt
from dycoke.bench.decode.step import ALIGNED
from dycoke.bench.engine.setting import STATIC_GRAPH, Setting
from dycoke.bench.timing import WARM_UPS, Captured, capture, time_run


class StaticSteps:
    """Steps behind prompts of `length` random columns in each of `rows` rows; on a CPU eager ones.

    room: steps that will ever be timed. A captured step does not depend on what is cached, so no prefill is needed.
    """

    def __init__(self, model: nn.Module, setting: Setting, length: int, rows: int, room: int) -> None:
        self._device = model.lm_head.weight.device.type
        self._length, self._ran = length, 0
        total = length + WARM_UPS + 1 + room
        cache = StaticCache(config=model.config, max_cache_len=-(-total // ALIGNED) * ALIGNED)
        generator = torch.Generator(model.lm_head.weight.device).manual_seed(3)
        _fill(cache, setting, rows, length - 1, generator)
        newest = _normal((rows, 1, setting.language.hidden), setting.torch_dtype, generator)
        self._loop = Loop(model, Prompt(newest, torch.zeros(rows, 1, dtype=torch.bool)), cache, room=room)
        self._captured: Captured | None = None
        if self._device == "cuda":
            self._captured = capture(self._loop.step)
            self._ran = WARM_UPS

    def time(self, steps: int) -> float:
        """Milliseconds per step, of so many in a row. Raises RuntimeError unless each advanced and the last wrote."""
        if self._captured is None:
            logits: list[Tensor] = []
            elapsed = time_run(lambda: logits.append(self._loop.step()), steps, self._device)
            written = logits[-1]
        else:
            written = self._captured.output.fill_(torch.nan)
            elapsed = time_run(self._captured.graph.replay, steps, self._device)
        self._ran += steps
        check_loop(STATIC_GRAPH, self._loop, written, self._length, self._ran)
        return elapsed


def _fill(cache: StaticCache, setting: Setting, rows: int, columns: int, generator: torch.Generator) -> None:
    """Let the cache hold so many random columns of every row."""
    shape = setting.language
    sizes = rows, shape.kv_heads, columns, shape.head_dim
    for layer in range(shape.layers):
        cache.update(*(_normal(sizes, setting.torch_dtype, generator) for _ in range(2)), layer)


def _normal(sizes: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.empty(sizes, dtype=dtype, device=generator.device).normal_(generator=generator)
