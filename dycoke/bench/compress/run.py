"""`dycoke bench compress`: temporal merging against the memory's speed, then `compress` of every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dycoke import budget
from dycoke.bench.compress.check import check_merge_output
from dycoke.bench.compress.methods import measure, measure_tower, print_methods
from dycoke.bench.timing import Times, capture, stream_step, time_graphs, time_on_host
from dycoke.lab.record import circumstances, write_record
from dycoke.ops.tokens.temporal_merge import temporal_merge_torch

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ON_GPU = {"frames": 32, "tokens": 196, "dim": 3584, "warm_up": 40.0}
ON_CPU = {"frames": 8, "tokens": 49, "dim": 256, "warm_up": 0.0}
STREAM = "stream"
STREAM_BYTES = 2**31
CHECKS = 3  # fresh inputs each version is judged on before it is timed


@dataclass(frozen=True)
class Setting:
    """Setting of the benchmark: frames [T, N, D] of a dtype, K, and how many timed runs.

    warm_up: seconds of work ahead of the methods, whose launches a fresh machine takes several times as long for.
    Raises ValueError if out of range.
    """

    frames: int
    tokens: int
    dim: int
    k: float
    dtype: str
    repeat: int
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        budget.check_ratio("k", self.k)
        for name in ("frames", "tokens", "dim", "repeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.warm_up >= 0:
            raise ValueError(f"warm_up={self.warm_up}: expected seconds, from 0")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(DTYPES)}")

    @classmethod
    def chosen(
        cls,
        frames: int | None,
        tokens: int | None,
        dim: int | None,
        k: float | None,
        dtype: str,
        repeat: int,
        warm_up: float | None = None,
    ) -> Setting:
        """The sizes given, and for those left out the paper's on a GPU and small ones on a CPU."""
        given = {"frames": frames, "tokens": tokens, "dim": dim, "warm_up": warm_up}
        default = ON_GPU if torch.cuda.is_available() else ON_CPU
        sizes = default | {name: size for name, size in given.items() if size is not None}
        return cls(**sizes, k=budget.PAPER_K if k is None else k, dtype=dtype, repeat=repeat)

    @property
    def keep(self) -> int:
        return budget.kept_per_frame(self.k, self.tokens)

    @property
    def kept(self) -> int:
        return budget.windows_count(self.frames, self.tokens, self.k)

    @property
    def must_move(self) -> int:
        """Bytes: the input read once, the kept rows written once, with the slot (8 bytes) of each."""
        row = self.dim * DTYPES[self.dtype].itemsize
        return self.frames * self.tokens * row + self.kept * (row + 8)


def run(setting: Setting, methods: Sequence[str], json: Path | None, out: Console) -> None:
    """Measure, print tables and, where asked, write the record. Raises RuntimeError if a version or method is wrong."""
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json {json}: no folder {json.parent}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    times = _on_gpu(setting) if device == "cuda" else _on_cpu(setting)
    record = {"benchmark": "compress", **circumstances(), "setting": asdict(setting), **_results(setting, times)}
    record["methods"] = measure(methods, random_frames(setting, device, seed=0), setting.repeat, setting.warm_up)
    tower = (setting.frames, setting.tokens, DTYPES[setting.dtype], device, setting.repeat)
    record["tower"] = measure_tower(*tower) if methods else None
    _print(record, out)
    print_methods(record, out)
    if json is not None:
        write_record(json, record)


def _on_cpu(setting: Setting) -> dict[str, Times]:
    embeds = random_frames(setting, "cpu", seed=0)
    check_merge_output(embeds, setting.keep, *temporal_merge_torch(embeds, setting.keep))
    return {"torch": time_on_host(lambda: temporal_merge_torch(embeds, setting.keep), setting.repeat)}


def _on_gpu(setting: Setting) -> dict[str, Times]:
    from dycoke.ops.tokens.temporal_merge_triton import temporal_merge_triton  # Triton only where there is a GPU

    embeds = random_frames(setting, "cuda", seed=0)
    versions = {"torch": temporal_merge_torch, "triton": temporal_merge_triton}
    merges = {name: capture(lambda merge=merge: merge(embeds, setting.keep)) for name, merge in versions.items()}

    def poison() -> None:
        for captured in merges.values():
            kept, index = captured.output
            kept.fill_(torch.nan)
            index.fill_(-1)

    def check() -> None:
        poison()
        for captured in merges.values():
            captured.graph.replay()
            check_merge_output(embeds, setting.keep, *captured.output)

    for seed in range(1, CHECKS + 1):
        embeds.copy_(random_frames(setting, "cuda", seed))
        check()
    times = time_graphs(merges | {STREAM: capture(stream_step(STREAM_BYTES))}, setting.repeat, poison)
    check()
    return times


def random_frames(setting: Setting, device: str, seed: int) -> Tensor:
    """Frames [T, N, D] that resemble each other as a video's do: a shared picture and noise of every strength."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    picture = normal(1, setting.tokens, setting.dim)
    strength = normal(setting.frames, setting.tokens, 1).abs()
    noise = normal(setting.frames, setting.tokens, setting.dim)
    return (picture + strength * noise).to(DTYPES[setting.dtype])


def _results(setting: Setting, times: dict[str, Times]) -> dict[str, Any]:
    moved = {name: 2 * STREAM_BYTES if name == STREAM else setting.must_move for name in times}
    rates = {name: moved[name] / times[name].median_ms / 1e6 for name in times}
    return {
        "kept_tokens": setting.kept,
        "bytes_that_must_move": setting.must_move,
        "floor_ms": setting.must_move / rates[STREAM] / 1e6 if STREAM in rates else None,
        "results": [
            {
                "version": name,
                "median_ms": measured.median_ms,
                "iqr_ms": measured.iqr_ms,
                "halves_ms": measured.halves_ms,
                "runs": len(measured.samples),
                "gb_per_s": rates[name],
            }
            for name, measured in times.items()
        ],
    }


def _print(record: dict[str, Any], out: Console) -> None:
    versions, setting = record["versions"], record["setting"]
    on_gpu = record["floor_ms"] is not None
    out.print(f"{record['device']}, torch {versions['torch']}, triton {versions['triton']}", highlight=False)
    how = "CUDA graphs, L2 flushed" if on_gpu else "no GPU: the torch reference only, host clock, warm caches"
    out.print(
        f"{setting['frames']} x {setting['tokens']} x {setting['dim']} {setting['dtype']}, K = {setting['k']}: "
        f"{record['kept_tokens']} tokens kept, {record['bytes_that_must_move'] / 1e6:.1f} MB must move; {how}",
        highlight=False,
    )
    table = Table(box=box.SIMPLE)
    table.add_column("version")
    for column in ("median ms", "IQR ms", "runs", "GB/s"):
        table.add_column(column, justify="right")
    for row in record["results"]:
        low, high = row["iqr_ms"]
        values = (f"{row['median_ms']:.4f}", f"{low:.4f} to {high:.4f}", str(row["runs"]), f"{row['gb_per_s']:.0f}")
        table.add_row(row["version"], *values)
    out.print(table)
    if on_gpu:
        out.print(f"byte floor at the stream's speed: {record['floor_ms']:.4f} ms", highlight=False)
