"""Time a step: CUDA graphs or eager calls between events with a cold L2 cache, or the host clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Step = Callable[[], Any]
WARM_UPS = 10
_FLUSH_SHARE = 8  # times the L2 cache; also long enough for the host to queue the next graph behind it


@dataclass(frozen=True)
class Times:
    """Milliseconds of the runs of one step, in the order they ran."""

    samples: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.samples)

    @property
    def iqr_ms(self) -> tuple[float, float]:
        """First and third quartile; the only value twice if there is one sample."""
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def halves_ms(self) -> tuple[float, float]:
        """Median of the earlier and of the later runs: a difference below theirs means nothing."""
        middle = max(1, len(self.samples) // 2)
        return statistics.median(self.samples[:middle]), statistics.median(self.samples[-middle:])


@dataclass
class Captured:
    """A step recorded in a CUDA graph; `output` holds the tensors every replay writes anew."""

    graph: torch.cuda.CUDAGraph
    output: Any
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)


def capture(step: Step) -> Captured:
    """Warm a step up on a side stream, as capturing asks for, and record it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return Captured(graph, output)


class CacheFlush:
    """Empties the L2 cache: writes a buffer larger than it, and reads it back.

    The read leaves clean lines behind, so that a timed step need not wait for the flush's own writes to reach memory.
    """

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._buffer = torch.empty(_FLUSH_SHARE * size // 4, dtype=torch.int32, device="cuda")

    def __call__(self) -> None:
        self._buffer.zero_()
        self._buffer.max()


def time_graphs(graphs: Mapping[str, Captured], repeat: int, before: Step) -> dict[str, Times]:
    """Times of each graph over `repeat` replays, taken in turn (A B A B) so that drift meets all of them.

    `before` and an L2 flush run ahead of every replay, outside its events.
    """
    flush = CacheFlush()
    for captured in graphs.values():
        for _ in range(WARM_UPS):
            captured.graph.replay()
    for _ in range(repeat):
        for captured in graphs.values():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before()
            flush()
            start.record()
            captured.graph.replay()
            end.record()
            captured.events.append((start, end))
    torch.cuda.synchronize()
    return {
        name: Times(tuple(start.elapsed_time(end) for start, end in captured.events))
        for name, captured in graphs.items()
    }


def time_run(step: Step, count: int, device: str) -> float:
    """Milliseconds a step over `count` runs queued one behind the other: by events on a GPU, else by the host clock."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - begin) * 1e3 / count
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def time_eager(step: Step, repeat: int) -> Times:
    """Times of a step called anew each time: what the host takes to launch it counts, and so does any wait for it.

    An L2 flush runs ahead of every call, and has ended before it begins.
    """
    flush = CacheFlush()
    for _ in range(WARM_UPS):
        step()
    samples = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush()
        torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return Times(tuple(samples))


def time_on_host(step: Step, repeat: int) -> Times:
    """Times of a step on the CPU by the host clock, after a warm-up; the caches stay as they are."""
    for _ in range(WARM_UPS):
        step()
    samples = []
    for _ in range(repeat):
        begin = time.perf_counter()
        step()
        samples.append((time.perf_counter() - begin) * 1e3)
    return Times(tuple(samples))


def stream_step(nbytes: int, device: str = "cuda") -> Step:
    """Read `nbytes` and write as many, in one pass of an element-wise kernel: the memory's speed as kernels see it.

    A plain copy_ becomes a memcpy node in a graph, which reaches only 2.7 TB/s on an H200 and so is no ceiling.
    """
    source = torch.randn(nbytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: torch.neg(source, out=target)


def row(name: str, times: Times, rounds: int) -> dict[str, Any]:
    """What a record tells of one version: runs were taken in `rounds` of the same length."""
    each = len(times.samples) // rounds
    medians = [statistics.median(times.samples[i * each : (i + 1) * each]) for i in range(rounds)]
    return {
        "version": name,
        "median_ms": times.median_ms,
        "iqr_ms": times.iqr_ms,
        "round_medians_ms": medians,
        "runs": len(times.samples),
    }


def ratio(rows: Sequence[dict[str, Any]], above: str, below: str) -> dict[str, Any]:
    """Time of version `above` over that of `below`: of the medians, and in every round."""
    over, under = (next(r for r in rows if r["version"] == name) for name in (above, below))
    each = [a / b for a, b in zip(over["round_medians_ms"], under["round_medians_ms"], strict=True)]
    return {
        "ratio": f"{above} / {below}",
        "of_medians": over["median_ms"] / under["median_ms"],
        "rounds": each,
        "range": [min(each), max(each)],
    }
