"""Tables that `dycoke bench kernels` prints: plain lines, which no narrow terminal breaks."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from dycoke.bench.kernels.setting import Setting

_BEST = 5  # candidates printed


def print_head(record: dict[str, Any], setting: Setting, out: Console) -> None:
    """The device, the setting and how times are taken."""
    versions, stream = record["versions"], record.get("stream_gb_per_s")
    how = "no GPU: the torch references, host clock"
    if stream is not None:
        how = f"CUDA graphs, L2 flushed, {setting.copies} layers in turn; an element-wise stream: {stream:.0f} GB/s"
    _line(out, f"{record['device']}, torch {versions['torch']}, triton {versions['triton']}")
    _line(out, f"{setting.shape}, {setting.dtype}, random weights; {how}")


def print_batch(measured: dict[str, Any], record: dict[str, Any], out: Console) -> None:
    """Times of one batch size: each linear, the best candidates if there were any, and all in turn."""
    stream = record.get("stream_gb_per_s")
    _line(out, f"\n{measured['batch']} rows")
    for told in measured["linears"]:
        for row in told["results"]:
            plan = f"  {_plan(told['plan'])}" if row["version"] == "skinny_linear" else ""
            chosen = "  chosen" if row["version"] == told["chosen"] else ""
            _line(out, f"  {told['linear']:<12}  {row['version']:<13}  {_numbers(row, stream)}{plan}{chosen}")
        if "candidates" in told:
            _print_best(told, stream, out)
    _line(out, f"  {'rotary_write':<27}  {_numbers(measured['rotary_write'], stream)}")
    for row in measured["chain"]:
        _line(out, f"  {'all in turn':<12}  {row['version']:<13}  {_numbers(row, stream)}")
    _line(out, f"  {measured['seconds']:.0f} s so far")


def _print_best(told: dict[str, Any], stream: float | None, out: Console) -> None:
    best = sorted(told["candidates"], key=lambda row: row["median_ms"])[:_BEST]
    for place, row in enumerate(best, start=1):
        _line(out, f"    best {place} of {len(told['candidates']):<14}  {_numbers(row, stream)}  {_plan(row['plan'])}")
    for plan, error in told["failed"].items():
        _line(out, f"    failed: {plan}: {error}")


def _line(out: Console, text: str) -> None:
    out.print(text.rstrip(), highlight=False, markup=False, soft_wrap=True)


def _numbers(row: dict[str, Any], stream: float | None) -> str:
    (low, high), speed = row["iqr_ms"], row.get("gb_per_s")
    text = f"{1e3 * row['median_ms']:9.1f} us ({1e3 * low:.1f} to {1e3 * high:.1f})"
    if speed is not None:
        text += f"  {speed:5.0f} GB/s"
        text += "" if stream is None else f" {speed / stream:4.0%}"
    return text


def _plan(plan: dict[str, Any]) -> str:
    """A plan's fields, such as n64 k128 s2 w4 d3."""
    text = f"n{plan['block_n']} k{plan['block_k']} s{plan['splits']} w{plan['warps']} d{plan['depth']}"
    kind = (" tensor swapped" if plan["swap"] else " tensor") if plan["tensor"] else ""
    return text + kind
