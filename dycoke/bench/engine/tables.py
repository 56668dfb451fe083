"""Tables that `dycoke bench engine` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_head(record: dict[str, Any], out: Console) -> None:
    """The device, the setting and the ceilings that were measured."""
    versions, setting, ceilings = record["versions"], record["setting"], record["ceilings"]
    said = ", ".join(f"{name} {versions[name]}" for name in ("torch", "triton", "transformers"))
    out.print(f"{record['device']} x {max(1, record['gpus'])}, {said}", highlight=False)
    out.print(
        f"{setting['shape']}, {setting['dtype']}, random weights, {setting['frames']} frames, K = {setting['k']}, "
        f"L = {setting['l']}, P = {setting['p']}; measured ceilings: {ceilings['gb_per_s']:.0f} GB/s, "
        f"{ceilings['tflop_per_s']:.1f} TFLOP/s",
        highlight=False,
    )


def print_part(part: str, measured: dict[str, Any], out: Console) -> None:
    """The tables of one part; ratios with the lowest and highest of the rounds."""
    _PRINTERS[part](measured, out)


def _print_decode(measured: dict[str, Any], out: Console) -> None:
    tokens = measured["tokens"]
    title = f"decode, tokens {tokens['first']} to {tokens['last']} behind {tokens['prompt']}, batch 1, ms per token"
    _print_steps(title, measured, out)
    _print_skipped(measured, out)


def _print_batch(measured: dict[str, Any], out: Console) -> None:
    for each in measured["batches"]:
        _print_steps(f"decode of {each['rows']} rows, ms per step", each, out)
        for name, reason in each["failed"].items():
            out.print(f"{name}: {reason}", highlight=False)
    _print_skipped(measured, out)


def _print_skipped(measured: dict[str, Any], out: Console) -> None:
    for name, reason in measured["skipped"].items():
        out.print(f"{name}: skipped, {reason}", highlight=False)


def _print_steps(title: str, measured: dict[str, Any], out: Console) -> None:
    batched = any("tokens_per_s" in row for row in measured["results"])
    columns = ("median", "rounds", "floor", "of floor", "GB/s", *(["tokens/s"] if batched else []))
    table = _table(title, *columns, "loop")
    for row in measured["results"]:
        values = [_number(row["median_ms"]), _range(row["round_medians_ms"]), _number(row["floor_ms"])]
        values += [_number(row["of_floor"], 2, "x"), _number(row["gb_per_s"], 0)]
        values += [_number(row["tokens_per_s"], 1)] if batched else []
        table.add_row(row["version"], *values, row["loop"] or "stock")
    out.print(table)
    _print_ratios(measured, out)


def _print_answer(measured: dict[str, Any], out: Console) -> None:
    tokens = "first token" if measured["answer"] == 1 else f"answer of {measured['answer']} tokens"
    names = max((list(row["stages_ms"]) for row in measured["results"]), key=len, default=[])
    table = _table(f"frames on the device to {tokens} on the host, ms", "total", "rounds", *names)
    for row in measured["results"]:
        stages = [_stage(row, name) for name in names]
        table.add_row(row["version"], _number(row["median_ms"], 1), _range(row["round_medians_ms"], 1), *stages)
    out.print(table)
    for row in measured["results"]:
        out.print(f"{row['version']}: {', '.join(_rates(row['rates']))}", highlight=False)
    _print_ratios(measured, out)
    if "preprocess" in measured:
        _print_preprocess(measured["preprocess"], out)


def _print_preprocess(told: dict[str, Any], out: Console) -> None:
    (height, width), (low, high) = told["source"], told["iqr_ms"]
    said = f"{told['median_ms']:.2f} ms ({low:.2f} to {high:.2f}), not in the totals"
    out.print(f"ahead of it, frames of {width} x {height} to pixels on the device: {said}", highlight=False)


def _stage(row: dict[str, Any], name: str) -> str:
    if name not in row["stages_ms"]:
        return "-"
    return f"{row['stages_ms'][name]:.2f} ({row['shares'][name]:.1%})"


def _rates(rates: dict[str, Any]) -> list[str]:
    said = []
    for stage, rate in rates.items():
        if rate.get("tflop_per_s") is not None:
            said.append(f"{stage} {rate['tflop_per_s']:.1f} TFLOP/s ({rate['of_matmul']:.0%} of the matmul)")
        elif rate.get("gb_per_s") is not None:
            said.append(f"{stage} {rate['gb_per_s']:.0f} GB/s ({rate['of_floor']:.1f}x its floor)")
    return said


def _print_memory(measured: dict[str, Any], out: Console) -> None:
    stages = ("vision", "compress", "prefill", "decode")
    title = f"peak MiB by stage, weights {_mib(measured['weights_bytes'])}"
    table = _table(title, "frames", "tokens", *stages, "KV cache")
    for row in measured["results"]:
        if "failed" in row:
            table.add_row(row["version"], str(row["frames"]), row["failed"])
            continue
        values = [_mib(row["stages_bytes"].get(stage)) for stage in stages]
        table.add_row(row["version"], str(row["frames"]), str(row["tokens"]), *values, _mib(row["cache_bytes"]))
    out.print(table)


def _print_parity(measured: dict[str, Any], out: Console) -> None:
    logits = measured.get("logits")
    if logits is not None:
        out.print(
            f"logits of full on {logits['steps']} forced tokens in {logits['dtype']}: at most "
            f"{max(logits['max_by_step']):.2e} from stock, mean {max(logits['mean_by_step']):.2e} at most, relative "
            f"{logits['apart']:.2e}; the same likeliest token {logits['top1_agreement']:.0%} of the time",
            highlight=False,
        )
    for each in measured["tokens"]:
        said = f"{each['version']} ({each['loop']}): the stock loop's {each['steps']} tokens in float32"
        out.print(said, highlight=False)


def _print_ratios(measured: dict[str, Any], out: Console) -> None:
    for ratio in measured["ratios"]:
        low, high = ratio["range"]
        out.print(f"{ratio['ratio']}: {ratio['of_medians']:.2f}, rounds {low:.2f} to {high:.2f}", highlight=False)


def _number(value: float | None, decimals: int = 3, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{decimals}f}{unit}"


def _range(values: list[float], decimals: int = 3) -> str:
    return f"{min(values):.{decimals}f} to {max(values):.{decimals}f}"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("version", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


_PRINTERS = {
    "decode": _print_decode,
    "first_token": _print_answer,
    "answer": _print_answer,
    "batch": _print_batch,
    "memory": _print_memory,
    "parity": _print_parity,
}
