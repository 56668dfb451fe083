"""Tables that `dycoke bench decode` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dycoke.bench.decode.setting import Setting


def print_head(record: dict[str, Any], setting: Setting, out: Console) -> None:
    """The device, the setting and how times are taken."""
    versions = record["versions"]
    out.print(f"{record['device']}, torch {versions['torch']}, triton {versions['triton']}", highlight=False)
    on_gpu = not record["device"].startswith("CPU")
    how = "CUDA graphs, L2 flushed" if on_gpu else "no GPU: the torch references, no graphs, host clock"
    out.print(
        f"{setting.shape}, {setting.dtype}, random weights, L = {setting.l}, P = {setting.p}: {setting.prompt} tokens "
        f"of {setting.untouched} behind merging at K = {setting.k}, pruned layers read {setting.kept}; {how}",
        highlight=False,
    )


def print_part(part: str, measured: dict[str, Any], out: Console) -> None:
    """Times and ratios of one part, ratios with the lowest and highest of the rounds."""
    if part == "memory":
        _print_memory(measured, out)
    elif part == "step":
        for how, title in (("graphs", "step, captured"), ("eager", "step, eager, the host waits for every token")):
            if how in measured:
                _print_times(f"{title}, batch 1", measured[how], out)
    else:
        _print_times(f"attention of a step, all layers, batch {measured['batch']}", measured, out)
        out.print(f"bytes that must move, dense / dp: {measured['byte_ratio']:.2f}", highlight=False)


def _print_times(title: str, measured: dict[str, Any], out: Console) -> None:
    rows = measured["results"]
    columns = ["median ms", "IQR ms", "rounds ms", "runs"] + (["GB", "GB/s"] if "bytes" in rows[0] else [])
    table = _table(title, *columns)
    for row in rows:
        low, high = row["iqr_ms"]
        rounds = " ".join(f"{median:.3f}" for median in row["round_medians_ms"])
        values = [f"{row['median_ms']:.3f}", f"{low:.3f} to {high:.3f}", rounds, str(row["runs"])]
        if "bytes" in row:
            values += [f"{row['bytes'] / 1e9:.3f}", f"{row['gb_per_s']:.0f}"]
        table.add_row(row["version"], *values)
    out.print(table)
    for ratio in measured["ratios"]:
        low, high = ratio["range"]
        said = f"{ratio['ratio']}: {ratio['of_medians']:.4f}, rounds {low:.4f} to {high:.4f}"
        out.print(said, highlight=False)


def _print_memory(measured: dict[str, Any], out: Console) -> None:
    columns = ("tokens", "measured MiB", "share", "counted MiB", "share", "host MiB")
    table = _table("KV cache behind a prefill, batch 1", *columns)
    for row in measured["results"]:
        sizes = []
        for key in ("measured", "counted"):
            size, share = row[f"{key}_bytes"], row[f"{key}_share"]
            sizes += ["-", "-"] if size is None else [_mib(size), f"{share:.1%}"]
        table.add_row(row["version"], str(row["tokens"]), *sizes, _mib(row["host_bytes"]))
    out.print(table)
    for decoded in measured["decoding"]:
        _print_times(f"generate, refresh = {decoded['refresh']}, ms per step", decoded, out)
        for row in decoded["results"]:
            said = f"{row['version']}: chose {row['selections']} times, fetched {_mib(row['fetched_bytes'])} MiB"
            out.print(said, highlight=False)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}" if size >= 2**20 else f"{size / 2**20:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("version")
    for column in columns:
        table.add_column(column, justify="right")
    return table
