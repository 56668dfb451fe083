"""`dycoke bench kernels`: the linear layers of a decode step and its rotary against torch's, or candidate tilings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dycoke.bench.kernels.layers import LINEARS, Calls, Layers
from dycoke.bench.kernels.setting import Setting
from dycoke.bench.kernels.tables import print_batch, print_head
from dycoke.bench.kernels.tune import Tuner
from dycoke.bench.timing import Step, Times, capture, stream_step, time_graphs, time_on_host
from dycoke.lab.record import circumstances, write_record
from dycoke.ops.layer.skinny_linear_triton import Tiling, chosen_tiling, kernel_tiling

STREAM_BYTES = 2**31


def run(setting: Setting, json: Path | None, out: Console) -> None:
    """Measure every batch size, print each and, where asked, write the record.

    Raises RuntimeError if an output is further from float64 than rounding explains; the record has what came before.
    """
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json {json}: no folder {json.parent}")
    record: dict[str, Any] = {"benchmark": "kernels", **circumstances(), "setting": asdict(setting)}
    record["complete"], record["batches"] = False, []
    try:
        with torch.no_grad():
            _measure(setting, record, out)
        record["complete"] = True
    finally:
        if json is not None:
            write_record(json, record)


def _measure(setting: Setting, record: dict[str, Any], out: Console) -> None:
    begin = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = Layers(setting, device)
    tuner = Tuner(layers) if setting.tune else None
    if device == "cuda":
        stream = time_graphs({"stream": capture(stream_step(STREAM_BYTES))}, setting.repeat, lambda: None)["stream"]
        record["stream_gb_per_s"] = 2 * STREAM_BYTES / stream.median_ms / 1e6
    print_head(record, setting, out)
    try:
        for batch in setting.batches:
            measured: dict[str, Any] = {"batch": batch, "linears": []}
            record["batches"].append(measured)
            _measure_batch(Calls(layers, batch), tuner, measured)
            measured["seconds"] = time.perf_counter() - begin
            print_batch(measured, record, out)
    finally:
        if tuner is not None:
            tuner.close()


def _measure_batch(calls: Calls, tuner: Tuner | None, measured: dict[str, Any]) -> None:
    """Fill in what one batch size comes to."""
    setting = calls.layers.setting
    tilings: dict[str, Tiling] = {}
    for name in LINEARS:
        linear = calls.layers.linears[name]
        exact = calls.exact(name)
        told: dict[str, Any] = {"linear": name, "rows": calls.batch, "bytes": _bytes(calls, name)}
        copies = len(linear.weights)
        if tuner is None:
            tiling = kernel_tiling(*_asked(calls, name))
        else:
            found = tuner.times(calls, name, exact)
            told["candidates"] = [_row(key, each, told["bytes"], copies) for key, each in found.items()]
            told["failed"] = tuner.failed
            tiling = tilings[name] = min(found, key=lambda each: found[each].median_ms)
        told["plan"], told["chosen"] = tiling._asdict(), _chosen(calls, name)
        steps = {"skinny_linear": calls.ours(name, tiling), **calls.torch_versions(name)}
        calls.outputs[name].fill_(torch.nan)
        steps["skinny_linear"]()
        calls.check(name, str(tiling), exact)
        times = timed(steps, setting.repeat)
        told["results"] = [_row(version, each, told["bytes"], copies) for version, each in times.items()]
        measured["linears"].append(told)
    measured["rotary_write"] = _row("rotary_write", timed({"rotary": calls.rotary()}, setting.repeat)["rotary"], 0, 1)
    measured["chain"] = _chain(calls, tilings)


def _chain(calls: Calls, best: Mapping[str, Tiling]) -> list[dict[str, Any]]:
    """All linears of all layers made up and the head, in turn, each on what the one before wrote.

    "chosen" is what `skinny_linear` chooses, "best plans" the fastest candidates, where there were any.
    """
    steps = {"cublas": calls.chain_cublas(), "chosen": calls.chain(dict.fromkeys(LINEARS))}
    if best:
        steps["best plans"] = calls.chain(best)
    total = sum(_bytes(calls, name) * len(calls.layers.linears[name].weights) for name in LINEARS)
    return [_row(version, each, total, 1) for version, each in timed(steps, calls.layers.setting.repeat).items()]


def timed(steps: Mapping[str, Step], repeat: int) -> dict[str, Times]:
    """Times of each step, in graphs on a GPU."""
    if torch.cuda.is_available():
        return time_graphs({name: capture(step) for name, step in steps.items()}, repeat, lambda: None)
    return {name: time_on_host(step, repeat) for name, step in steps.items()}


def _asked(calls: Calls, name: str) -> tuple[Any, ...]:
    linear, x = calls.layers.linears[name], calls.inputs[name]
    return x.device, x.dtype, calls.batch, linear.width, linear.sizes, linear.gate


def _chosen(calls: Calls, name: str) -> str:
    """The version that `skinny_linear` would choose on a GPU."""
    if chosen_tiling(*_asked(calls, name)) is not None:
        return "skinny_linear"
    return "addmm_" if calls.layers.linears[name].has_residual else "cublas"


def _bytes(calls: Calls, name: str) -> int:
    """Weights of one layer: what must be read at least."""
    linear = calls.layers.linears[name]
    return sum(linear.sizes) * linear.width * calls.residual.dtype.itemsize


def _row(version: str | Tiling, times: Times, nbytes: int, copies: int) -> dict[str, Any]:
    """One version's times for one layer, of runs that had `copies` of them in turn."""
    low, high = times.iqr_ms
    row: dict[str, Any] = {"version": version} if isinstance(version, str) else {"plan": version._asdict()}
    row |= {"median_ms": times.median_ms / copies, "iqr_ms": [low / copies, high / copies], "runs": len(times.samples)}
    return row | ({"gb_per_s": nbytes * copies / times.median_ms / 1e6} if nbytes else {})
