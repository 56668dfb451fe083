"""What a request cost: tokens, milliseconds and peak bytes of each stage.

CUDA stages are timed by events and resolved when the report is read, so that measuring adds no sync to a request.
Peak bytes are the CUDA allocator's; on a CPU-only model they are the process's peak resident set, where Linux
lets a process reset it, and None elsewhere. Both are of the whole process, whatever its other threads do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dycoke.report.peak_memory import reset_resident_peak, resident_peak
from dycoke.report.usage import CacheReport, CacheUse, Entered, InsideReport
from dycoke.turns import OfThread

STAGES = ("vision", "compress", "prefill", "decode")


@dataclass(frozen=True)
class Stage:
    """One stage of a request.

    tokens: visual tokens of videos made (vision) and kept (compress), sequence tokens read (prefill), tokens read one
    by one (decode; an answer's first token comes from prefill). Every row of the language model counts, so beams count
    each in prefill and decode, and in transformers' family, which compresses behind the expansion, everywhere.
    ms: wall time, None if the stage did not run; peak_bytes: highest memory while it ran, None where unknown.
    """

    tokens: int
    ms: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class VideoTokens:
    """One video of a request: its frames, the visual tokens made of them, and those that reached the language model."""

    frames: int
    made: int
    kept: int


@dataclass(frozen=True)
class Report:
    """One request. `decode` runs from the end of prefill to the last decoded token, the loop's own time included.

    videos: each in the order of the prompts, rows of a batch one after the other. cache: what the KV cache cost, where
    a method prunes it. keeps: with trace=True, the columns the pruned layers read, ascending, as keeps[step][row];
    step 0 is the first after prefill. inside: what went on into each layer at which visual tokens were dropped. loop:
    who decoded, "engine", or "stock: " and why not the engine. forwards: of a request of the engine, which parts of the
    model ran their stock forward in prefill, each with the reason.
    """

    method: str
    frames: int
    stages: dict[str, Stage]
    cache: CacheReport | None = None
    keeps: list[list[list[int]]] | None = None
    inside: tuple[InsideReport, ...] = ()
    videos: tuple[VideoTokens, ...] = ()
    loop: str = "stock"
    forwards: Mapping[str, str] = field(default_factory=dict)

    @property
    def visual_kept(self) -> float | None:
        """Share of the visual tokens of videos that reached the language model, None without a video."""
        made = self.stages["vision"].tokens
        return self.stages["compress"].tokens / made if made else None

    @property
    def decode_ms_per_token(self) -> float | None:
        decode = self.stages["decode"]
        return decode.ms / decode.tokens if decode.ms is not None and decode.tokens else None

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Stage, tokens, ms and peak MiB as text, for a table."""
        return [
            (
                name,
                str(stage.tokens),
                "-" if stage.ms is None else f"{stage.ms:.1f}",
                "-" if stage.peak_bytes is None else f"{stage.peak_bytes / 2**20:.0f}",
            )
            for name, stage in self.stages.items()
        ]

    def cache_rows(self) -> list[tuple[str, str]]:
        """What went on inside the model, and what its pruned KV cache cost, each a label and a text."""
        rows = [(f"visual tokens from layer {each.layer} on", str(each.tokens)) for each in self.inside]
        cache = self.cache
        if cache is None:
            return rows
        below, pruned = _layers(0, cache.first_layer), _layers(cache.first_layer, cache.layers)
        held = f"{_mib(cache.device_bytes)} on the device"
        if cache.host_bytes:
            held += f", {_mib(cache.host_bytes)} on the host, {_mib(cache.fetched_bytes)} fetched back"
        rows.append((f"tokens read a step, {below}", _count(cache.read_below)))
        if cache.first_layer < cache.layers:
            rows.append((f"tokens read a step, {pruned}", _count(cache.read_from)))
        if cache.selections is not None:
            tokens = self.stages["decode"].tokens
            times = "once" if cache.selections == 1 else f"{cache.selections} times"
            chosen = f"{times} in {tokens} decoded token{'' if tokens == 1 else 's'}"
            rows.append(("visual tokens chosen anew", chosen))
        return [*rows, ("KV cache", held)]

    def loop_rows(self) -> list[str]:
        """Who decoded, and which parts were not sped up in prefill."""
        return [f"decoded by: {self.loop}", *(f"{part}: stock, {why}" for part, why in self.forwards.items())]

    def __str__(self) -> str:
        head = f"{self.method}: {self.frames} frames\n{'stage':<10}{'tokens':>8}{'ms':>10}{'peak MiB':>10}"
        stages = [f"{n:<10}{t:>8}{ms:>10}{mib:>10}" for n, t, ms, mib in self.rows()]
        rows = (f"{label}: {text}" for label, text in self.cache_rows())
        return "\n".join([head, *stages, *rows, *self.loop_rows()])


def _layers(first: int, end: int) -> str:
    return f"layers {first}-{end - 1}" if end - first > 1 else f"layer {first}"


def _count(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@dataclass
class _Request:
    """Marks of one request; dies with its cache, when its thread's next one has started."""

    videos: list[VideoTokens] = field(default_factory=list)
    sequence: int | Tensor = 0
    steps: int = 0
    rows: int = 0
    spans: dict[str, list[tuple[object, object]]] = field(default_factory=lambda: {s: [] for s in STAGES})
    peaks: dict[str, int] = field(default_factory=dict)
    last: object = None  # mark of the latest decoded token
    loop: str = "stock"
    forwards: dict[str, str] = field(default_factory=dict)
    cache: CacheUse | None = None
    inside: list[Entered] = field(default_factory=list)


class Recorder:
    """Collects the marks of each thread's current request; adapters call it, `report` reads it.

    devices: where the model's weights are; decides between CUDA events and the host clock.
    """

    _request: _Request | None = OfThread()
    _open: dict[str, object] = OfThread({})  # replaced, never written into, where a thread begins
    _asked: bool = OfThread(False)  # whether the thread has begun any request

    def __init__(self, method: str, devices: list[torch.device]) -> None:
        self.method, self.loop = method, "stock"
        self._cuda = [d for d in devices if d.type == "cuda"]
        self._of_thread = threading.local()
        self._latest: _Request | None = None  # of all threads

    @property
    def current(self) -> _Request:
        """The request under way, to tell what is counted later whose it is."""
        return self._request

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within the context, requests of the thread are others than the one under way, which then goes on."""
        kept = self._request, self._open
        self._request, self._open = None, {}
        try:
            yield
        finally:
            self._request, self._open = kept

    def start(self, stage: str) -> None:
        """Mark the start of vision, compress or prefill; the first stage after a prefill starts a new request."""
        if self._request is None or self._over(stage):
            self._request, self._open, self._asked = _Request(), {}, True
        self._reset_peak()
        self._open[stage] = self._mark()

    def _over(self, stage: str) -> bool:
        """Whether the current request is finished, or has failed: then nobody told, but the stages start anew."""
        reached = {name for name, spans in self._request.spans.items() if spans} | set(self._open)
        return "prefill" in reached or (stage == "vision" and "compress" in reached)

    def stop(self, stage: str) -> None:
        """Mark the end of a started stage."""
        begin = self._open.pop(stage, None)
        if begin is None:
            return
        self._request.spans[stage].append((begin, self._mark()))
        self._keep_peak(self._request, stage)

    def discard(self) -> None:
        """Forget a request that failed before it reached the language model; one that is being decoded stays."""
        if self._request is not None and not self._request.spans["prefill"]:
            self._request, self._open = None, {}

    def video(self, frames: int, made: int, kept: int) -> None:
        """Add a compressed video: frames, visual tokens before and after."""
        self._request.videos.append(VideoTokens(frames, made, kept))

    def pruned(self, use: CacheUse | None, inside: list[Entered]) -> None:
        """The counters of the request's cache, None where nothing prunes it, and what its prefill will note inside."""
        self._request.cache, self._request.inside = use, inside

    def prefilled(self, sequence: int | Tensor, rows: int) -> _Request:
        """End of prefill: real tokens of the sequence (a count or a mask to be summed later) and batch rows.

        Returns the request, for `decoded`.
        """
        self.stop("prefill")
        self._request.sequence, self._request.rows, self._request.loop = sequence, rows, self.loop
        self._latest = self._request
        self._reset_peak()
        return self._request

    def decoded(self, request: _Request, steps: int = 1, mark: torch.cuda.Event | None = None) -> None:
        """Decode steps of a request have been queued. mark: when the last of them was done, where that is known."""
        request.steps += steps
        if not (self._cuda and torch.cuda.is_current_stream_capturing()):  # a captured event tells no time
            request.last = self._mark() if mark is None else mark

    @property
    def report(self) -> Report:
        """The latest request of the thread that asks; of one that has made none, the latest of all.

        Raises RuntimeError if that has not reached the language model yet.
        """
        request = self._request if self._asked else self._latest
        if request is None or not request.spans["prefill"]:
            raise RuntimeError("no report yet: call model.generate or model.forward inside the attached block first")
        if request.last is not None:
            request.spans["decode"] = [(request.spans["prefill"][-1][1], request.last)]
            self._keep_peak(request, "decode")
        for device in self._cuda:
            torch.cuda.synchronize(device)
        sequence = request.sequence if isinstance(request.sequence, int) else int(request.sequence.sum())
        made, kept = (sum(getattr(video, name) for video in request.videos) for name in ("made", "kept"))
        tokens = (made, kept, sequence, request.steps * request.rows)
        return Report(
            self.method,
            sum(video.frames for video in request.videos),
            {
                name: Stage(count, self._elapsed(request.spans[name]), request.peaks.get(name))
                for name, count in zip(STAGES, tokens, strict=True)
            },
            None if request.cache is None else request.cache.report(),
            None if request.cache is None else request.cache.keeps,
            tuple(entered.report() for entered in request.inside),
            tuple(request.videos),
            request.loop,
            request.forwards,
        )

    def _mark(self) -> object:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._cuda[0]))
        return event

    def _elapsed(self, spans: list[tuple[object, object]]) -> float | None:
        if not spans:
            return None
        if self._cuda:
            return sum(begin.elapsed_time(end) for begin, end in spans)
        return sum(end - begin for begin, end in spans) * 1e3

    def _reset_peak(self) -> None:
        for device in self._cuda:
            torch.cuda.reset_peak_memory_stats(device)
        if not self._cuda:
            reset_resident_peak()

    def _keep_peak(self, request: _Request, stage: str) -> None:
        peak = sum(torch.cuda.max_memory_allocated(d) for d in self._cuda) if self._cuda else resident_peak()
        if peak is not None:
            request.peaks[stage] = max(peak, request.peaks.get(stage, 0))
