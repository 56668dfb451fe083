"""Times of every candidate tiling of a linear: compiled ahead by other processes, timed as they come."""

from __future__ import annotations

from concurrent.futures import wait

import torch
from torch import Tensor

from dycoke.bench.kernels.layers import LINEARS, Calls, Layers
from dycoke.bench.kernels.tilings import candidates, compile_ahead, job
from dycoke.bench.timing import Captured, Times, capture, time_graphs
from dycoke.ops.layer.skinny_linear_triton import Tiling

_FIRST_REPEATS = 5  # of every candidate; those that are near the best are run again
_NEAR = 1.15


class Tuner:
    """Candidates of every linear and batch size, in the making. `failed` are the last linear's, with the error."""

    def __init__(self, layers: Layers) -> None:
        setting, self.layers = layers.setting, layers
        self.failed: dict[str, str] = {}
        processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
        self.tilings = {
            (batch, name): candidates(layers.linears[name], batch, setting.torch_dtype, processors)
            for batch in setting.batches
            for name in LINEARS
        }
        jobs = [
            job(tiling, layers.linears[name], batch, setting.torch_dtype)
            for (batch, name), tilings in self.tilings.items()
            for tiling in tilings
        ]
        self._pool, self._made = compile_ahead(jobs)

    def times(self, calls: Calls, name: str, exact: Tensor) -> dict[Tiling, Times]:
        """Times of each candidate of one linear; those far from the best have fewer runs. Every output is checked."""
        setting = self.layers.setting
        self.failed, graphs = {}, {}
        for tiling in self.tilings[calls.batch, name]:
            wait([self._made[job(tiling, self.layers.linears[name], calls.batch, setting.torch_dtype)]])
            try:
                graphs[tiling] = self._captured(calls, name, tiling, exact)
            except Exception as error:  # whatever a compiler raises for a tiling rules out that tiling alone
                self.failed[str(tiling)] = f"{type(error).__name__}: {str(error)[:200]}"
        first = self._time(graphs, _FIRST_REPEATS)
        best = min(times.median_ms for times in first.values())
        near = {tiling: graphs[tiling] for tiling, times in first.items() if times.median_ms <= _NEAR * best}
        return first | self._time(near, setting.repeat)

    def close(self) -> None:
        """End the other processes."""
        self._pool.shutdown(cancel_futures=True)

    def _captured(self, calls: Calls, name: str, tiling: Tiling, exact: Tensor) -> Captured:
        captured = capture(calls.ours(name, tiling))
        calls.outputs[name].fill_(torch.nan)
        captured.graph.replay()
        calls.check(name, str(tiling), exact)
        return captured

    @staticmethod
    def _time(graphs: dict[Tiling, Captured], repeat: int) -> dict[Tiling, Times]:
        named = {str(tiling): Captured(graph.graph, graph.output) for tiling, graph in graphs.items()}
        times = time_graphs(named, repeat, lambda: None)
        return {tiling: times[str(tiling)] for tiling in graphs}
