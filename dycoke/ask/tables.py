"""Reports as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dycoke.lab.cost import measured, retained
from dycoke.offline.answer import Answer
from dycoke.report import Report
from dycoke.report.usage import CacheReport
from dycoke.text.visible import visible

_HEADER = 20  # characters of a method's name and options that stay on one line
_CUT = "by --max-new-tokens"


def report_table(report: Report, cut: bool = False) -> Group:
    """One request: a headline, tokens, milliseconds and peak memory of each stage, and what a pruned cache cost.

    cut: as in `Answer`.
    """
    told = f"read per layer on average (mean over {_layers(report)} layers)" if report.inside else "kept"
    headline = Text(f"{report.method}: {report.frames} frames, {_share(report)} of the visual tokens {told}")
    table = Table(box=box.SIMPLE)
    table.add_column("stage")
    for column in ("tokens", "ms", "peak MiB"):
        table.add_column(column, justify="right")
    for row in report.rows():
        table.add_row(*row)
    ended = [f"answer cut: {_CUT}"] if cut else []
    return Group(headline, table, *_cache_lines(report), *map(Text, [*ended, *report.loop_rows()]))


def comparison_table(answers: Mapping[str, Answer]) -> Table:
    """Answers side by side, under what their methods were called, and what each cost."""
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for name in map(visible, answers):
        table.add_column(Text(name), overflow="fold", min_width=min(len(name), _HEADER))
    items = list(answers.values())
    reports, cut = [item.report for item in items], any(item.cut for item in items)
    table.add_row("answer", *(Text(visible(item.text)) for item in items), end_section=not cut)
    if cut:
        table.add_row("answer cut", *(Text(_CUT if item.cut else "-") for item in items), end_section=True)
    for label, values in (
        ("visual tokens", [str(r.stages["compress"].tokens) for r in reports]),
        (_kept_of(reports), [_share(r) for r in reports]),
        ("prompt tokens", [str(r.stages["prefill"].tokens) for r in reports]),
        ("vision ms", [_ms(r.stages["vision"].ms) for r in reports]),
        ("compress ms", [_ms(r.stages["compress"].ms) for r in reports]),
        ("prefill ms", [_ms(r.stages["prefill"].ms) for r in reports]),
        ("decode ms/token", [_ms(r.decode_ms_per_token) for r in reports]),
        ("peak MiB", [_peak(r) for r in reports]),
        ("decoded by", [r.loop for r in reports]),
    ):
        table.add_row(label, *map(Text, values))
    if any(report.inside for report in reports):
        table.add_row("visual tokens inside", *(_inside(report) for report in reports))
    table.add_section()
    for row in _cache_rows([report.cache for report in reports]):
        table.add_row(*row)
    return table


def _cache_lines(report: Report) -> list[Table]:
    if not report.cache_rows():
        return []
    lines = Table(box=box.SIMPLE, show_header=False)
    for label, text in report.cache_rows():
        lines.add_row(label, text)
    return [lines]


def _cache_rows(caches: Sequence[CacheReport | None]) -> list[list[str]]:
    """What each pruned cache cost, "-" where a method has none; without the rows that tell nothing of any."""
    rows = []
    for label, told, text in (
        ("read/step below L", "read_below", "{:.1f}".format),
        ("read/step from L", "read_from", "{:.1f}".format),
        ("chosen anew", "selections", str),
        ("KV MiB device", "device_bytes", _mib),
        ("KV MiB host", "host_bytes", _mib),
        ("KV MiB fetched", "fetched_bytes", _mib),
    ):
        values = [getattr(cache, told, None) for cache in caches]
        if any(values):
            rows.append([label, *("-" if value is None else text(value) for value in values)])
    return rows


def _inside(report: Report) -> str:
    return "\n".join(f"{each.tokens} from layer {each.layer} on" for each in report.inside) or "-"


def _kept_of(reports: Sequence[Report]) -> str:
    return "share kept, mean of layers" if any(report.inside for report in reports) else "share kept"


def _layers(report: Report) -> int | str:
    return "-" if report.cache is None else report.cache.layers


def _share(report: Report) -> str:
    """The share of the visual tokens that a layer reads in prefill, as a mean over the layers."""
    if report.visual_kept is None or (report.inside and report.cache is None):
        return "-"
    if not report.inside:
        return f"{report.visual_kept:.1%}"
    usage = {
        "visual_kept": report.stages["compress"].tokens,
        "inside": [(each.layer, each.tokens) for each in report.inside],
        "decode": None,
    }
    return f"{retained(measured(usage, report.cache.layers), report.stages['vision'].tokens):.1%}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _peak(report: Report) -> str:
    known = [stage.peak_bytes for stage in report.stages.values() if stage.peak_bytes is not None]
    return f"{max(known) / 2**20:.0f}" if known else "-"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
