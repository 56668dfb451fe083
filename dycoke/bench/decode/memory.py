"""Memory of the KV cache behind a prefill: stock, behind temporal merging, and pruned on the device or the host."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from dycoke.bases.dynamic_pruning import DynamicPruning
from dycoke.bench.decode.model import STOCK, Loop, Prompt, make_prompt, running
from dycoke.bench.decode.setting import Setting
from dycoke.bench.timing import Times, ratio, row

UNTOUCHED, MERGED, DEVICE, HOST = "stock_untouched", "stock_merged", "dp_device", "dp_host"
ANSWER = 16  # tokens of the answers compared
# Values of `refresh`: chosen once, and anew at every step. Where real attention lies, random weights cannot tell.
ONCE, EVERY = 0.0, 1.0


def measure_memory(model: nn.Module, setting: Setting) -> dict[str, Any]:
    """Bytes held behind a prefill, and what decoding from the host costs; without a GPU there is no host cache.

    Raises RuntimeError if an answer with entries on the host differs from the one with all on the device.
    """
    merged, whole = make_prompt(model, setting.visual), make_prompt(model, setting.frames * setting.tokens)
    places = (DEVICE, HOST) if torch.cuda.is_available() else (DEVICE,)
    held = {UNTOUCHED: (STOCK, whole), MERGED: (STOCK, merged)}
    held |= {place: (_pruning(setting, place, ONCE), merged) for place in places}
    _held(model, UNTOUCHED, *held[UNTOUCHED])  # libraries allocate their own memory the first time
    rows = [_held(model, name, *what) for name, what in held.items()]
    for key in ("measured", "counted"):
        for each in rows:
            share = None if each[f"{key}_bytes"] is None else each[f"{key}_bytes"] / rows[0][f"{key}_bytes"]
            each[f"{key}_share"] = share
    decoded = {refresh: _decode(model, merged, setting, places, refresh) for refresh in (ONCE, EVERY)}
    return {"results": rows, "decoding": [{"refresh": refresh, **told} for refresh, told in decoded.items()]}


def _pruning(setting: Setting, place: str, refresh: float) -> DynamicPruning:
    return setting.pruning(refresh, "host" if place == HOST else "device")


def _held(model: nn.Module, name: str, method: str | DynamicPruning, prompt: Prompt) -> dict[str, Any]:
    """Device bytes a prefill leaves: what the allocator says, and what the report or the cache counts."""
    before = _allocated()
    with running(model, method, prompt) as run:
        cache = Loop(model, prompt, None, room=1).cache
        after = _allocated()
        report = None if run is None else run.report.cache
    return {
        "version": name,
        "tokens": prompt.embeds.shape[1],
        "measured_bytes": None if before is None else after - before,
        "counted_bytes": _entries(cache) if report is None else report.device_bytes,
        "host_bytes": 0 if report is None else report.host_bytes,
    }


def _allocated() -> int | None:
    """Bytes on the GPU once everything queued has run and what is unused is free; None without one."""
    gc.collect()
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def _entries(cache: Cache) -> int:
    return sum(t.numel() * t.itemsize for layer in cache.layers for t in (layer.keys, layer.values))


def _decode(
    model: nn.Module, prompt: Prompt, setting: Setting, places: tuple[str, ...], refresh: float
) -> dict[str, Any]:
    """Stock `generate` with entries in each place, in turn: ms per step, bytes fetched, and whether the ids agree."""
    ids: dict[str, list[int]] = {}
    samples: dict[str, tuple[float, ...]] = dict.fromkeys(places, ())
    counts: dict[str, dict[str, int]] = {}
    for number in range(setting.rounds + 1):
        for place in places:
            with running(model, _pruning(setting, place, refresh), prompt) as run:
                out = model.generate(
                    inputs_embeds=prompt.embeds,
                    attention_mask=torch.ones_like(prompt.visual, dtype=torch.int64),
                    max_new_tokens=ANSWER,
                    do_sample=False,
                )
                report = run.report
            ids[place] = out[0].tolist()
            counts[place] = {"selections": report.cache.selections, "fetched_bytes": report.cache.fetched_bytes}
            if number:  # the first one warms up
                samples[place] += (report.decode_ms_per_token,)
    check_same(ids)
    rows = [row(place, Times(taken), setting.rounds) | counts[place] for place, taken in samples.items()]
    ratios = [ratio(rows, HOST, DEVICE)] if HOST in places else []
    return {"answer": ids[DEVICE], "results": rows, "ratios": ratios}


def check_same(ids: dict[str, list[int]]) -> None:
    """Raises RuntimeError unless every place gave the ids of the first, ANSWER of them."""
    first, *others = ids.items()
    if len(first[1]) != ANSWER:
        raise RuntimeError(f"{first[0]}: an answer of {len(first[1])} tokens; expected {ANSWER}")
    for name, answer in others:
        if answer != first[1]:
            raise RuntimeError(f"{name} answers {answer} where {first[0]} answers {first[1]}")
