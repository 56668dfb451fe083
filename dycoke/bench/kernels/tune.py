"""Times of every candidate plan of a linear: compiled ahead by other processes, timed as they come."""

from __future__ import annotations

from concurrent.futures import wait

import torch
from torch import Tensor

from dycoke.bench.kernels.layers import LINEARS, Calls, Layers
from dycoke.bench.kernels.tilings import candidates, compile_ahead, job
from dycoke.bench.timing import Captured, Times, capture, time_graphs
from dycoke.ops.layer.skinny_linear_triton import Plan

_FIRST_REPEATS = 5  # of every candidate; those that are near the best are run again
_NEAR = 1.15


class Tuner:
    """Candidates of every linear and batch size, in the making. `failed` are the last linear's, with the error."""

    def __init__(self, layers: Layers) -> None:
        setting, self.layers = layers.setting, layers
        self.failed: dict[str, str] = {}
        processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
        self.plans = {
            (batch, name): candidates(layers.linears[name], batch, setting.torch_dtype, processors)
            for batch in setting.batches
            for name in LINEARS
        }
        jobs = [
            job(plan, layers.linears[name], batch, setting.torch_dtype)
            for (batch, name), plans in self.plans.items()
            for plan in plans
        ]
        self._pool, self._made = compile_ahead(jobs)

    def times(self, calls: Calls, name: str, exact: Tensor) -> dict[Plan, Times]:
        """Times of each candidate of one linear; those far from the best have fewer runs. Every output is checked."""
        setting = self.layers.setting
        self.failed, graphs = {}, {}
        for plan in self.plans[calls.batch, name]:
            wait([self._made[job(plan, self.layers.linears[name], calls.batch, setting.torch_dtype)]])
            try:
                graphs[plan] = self._captured(calls, name, plan, exact)
            except Exception as error:  # whatever a compiler raises for a plan rules out that plan alone
                self.failed[str(plan)] = f"{type(error).__name__}: {str(error)[:200]}"
        first = self._time(graphs, _FIRST_REPEATS)
        best = min(times.median_ms for times in first.values())
        near = {plan: graphs[plan] for plan, times in first.items() if times.median_ms <= _NEAR * best}
        return first | self._time(near, setting.repeat)

    def close(self) -> None:
        """End the other processes."""
        self._pool.shutdown(cancel_futures=True)

    def _captured(self, calls: Calls, name: str, plan: Plan, exact: Tensor) -> Captured:
        captured = capture(calls.ours(name, plan))
        calls.outputs[name].fill_(torch.nan)
        captured.graph.replay()
        calls.check(name, str(plan), exact)
        return captured

    @staticmethod
    def _time(graphs: dict[Plan, Captured], repeat: int) -> dict[Plan, Times]:
        named = {str(plan): Captured(graph.graph, graph.output) for plan, graph in graphs.items()}
        times = time_graphs(named, repeat, lambda: None)
        return {plan: times[str(plan)] for plan in graphs}
