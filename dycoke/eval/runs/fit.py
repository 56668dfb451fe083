"""Whether the rows of an experiment fit their models, by config.json alone: asked before the first row runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dycoke.eval.runs.specs import RunSpec
from dycoke.families.configs import config_of
from dycoke.families.sizes import Sizes, kept_tokens, sizes_in
from dycoke.fitting import decode_faults, frame_faults, inside_faults, newline_faults, order_faults
from dycoke.types import Plan


def check_rows(runs: Iterable[RunSpec], loaded: Sizes | None = None) -> None:
    """Raise ValueError that names each row that does not fit its model, and why.

    loaded: the sizes of the model they all have, where it is loaded; otherwise config.json is read, where there is one.
    What is not known is not judged.
    """
    known: dict[str, Sizes] = {}
    faults: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        key = repr(run.model)
        if key not in known:
            known[key] = loaded or sizes_in(config_of(run.model.checkpoint), run.model)
        for fault in row_faults(run, known[key]):
            counts = faults.setdefault((run.method.label, run.model.name, fault), [])
            counts += [run.frames] if run.frames not in counts else []
    if faults:
        raise ValueError(f"methods that do not fit their model: {'; '.join(map(_line, faults, faults.values()))}")


def _line(fault: tuple[str, str, str], counts: list[int]) -> str:
    label, model, why = fault
    return f"{label!r} ({model}, {', '.join(map(str, counts))} frames): {why}"


def row_faults(run: RunSpec, sizes: Sizes) -> Iterator[str]:
    """Why a run cannot be made on a model of these sizes."""
    built = run.method.build()
    plan = built if isinstance(built, Plan) else built.plan()
    if sizes.layers is not None:
        yield from inside_faults(plan.pruners, sizes.layers)
        yield from decode_faults(plan.decode, plan.pruners, sizes.layers)
    yield from frame_faults(plan.before, run.frames)
    yield from order_faults(plan.before)
    yield from newline_faults(plan.before, sizes.newline)
    if sizes.per_frame is not None and _reads_all(run):
        yield from context_faults(plan, run.frames, sizes)


def context_faults(plan: Plan, frames: int, sizes: Sizes) -> Iterator[str]:
    """A video that leaves no room for a question, where it is known beforehand how many tokens are kept of it."""
    try:
        kept = kept_tokens(plan, frames, sizes.per_frame)
    except ValueError as error:
        yield str(error)
        return
    if kept is not None and sizes.context is not None and kept >= sizes.context:
        yield (f"{frames} frames are {kept} tokens, and with a question more than the {sizes.context} this model reads")


def _reads_all(run: RunSpec) -> bool:
    """Whether every video is read at as many frames as the experiment says, and not at fewer where it is short."""
    if run.model.args.get("token_strategy", "single") != "single":
        return False
    return run.model.id != "llava_vid" or bool(run.model.args.get("force_sample"))
