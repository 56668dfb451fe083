"""A request whose tensors a CUDA graph was recorded over: what another must agree in, and taking its values over."""

from __future__ import annotations

from typing import Any

from dycoke.kv_cache.request import DecodeRequest


def widen(request: DecodeRequest, multiple: int) -> None:
    """Round up how much a step reads and keeps at most, so that prompts of about one length share a graph.

    The kept columns of a policy are widened where it declares `padded_keep`.
    """
    if request.policy is None:
        return
    columns = request.text.shape[1] - 1
    request.width = min(columns, -(-request.width // multiple) * multiple)
    if not request.policy.padded_keep:
        return
    request.state.widen(min(columns, -(-request.kept[1] // multiple) * multiple))
    request.kept = request.state.keep.shape


def signature(request: DecodeRequest) -> tuple[Any, ...]:
    """What two requests agree in that can share a graph: nothing that follows from values."""
    sections = tuple((each.columns, each.whole.index is None, each.shift is None) for each in request.sections)
    chosen: tuple[Any, ...] = ()
    if request.policy is not None:
        state = request.state
        shapes = tuple((name, tuple(each.shape), each.dtype) for name, each in state.tensors().items())
        chosen = (request.observed_section, request.width, shapes, tuple(state.constants().items()))
    return request.batch, sections, request.numbers, request.capacity, chosen


def refill(template: DecodeRequest, request: DecodeRequest) -> None:
    """Give the template what `request`, of the same signature, says of its prompt; its keys and values come apart.

    Raises ValueError for another signature.
    """
    if signature(template) != signature(request):
        raise ValueError(f"a request of signature {signature(request)}: expected {signature(template)}")
    for to, of in zip(template.sections, request.sections, strict=True):
        to.real.copy_(of.real)
        for name in ("index", "shift"):
            if getattr(to, name) is not None:
                getattr(to, name).copy_(getattr(of, name))
        to.whole.count.copy_(of.whole.count)
        if to.whole.index is not None:
            to.whole.index.copy_(of.whole.index)
    for (_, number), columns in template.shared.items():
        columns.filled.zero_()
        columns.position.fill_(-1)
        whole = template.sections[number].whole
        if columns.whole.count is not whole.count:
            columns.whole.count.copy_(whole.count)
    if template.policy is not None:
        template.text.copy_(request.text)
        template.state.fill(request.state)


def recorded(request: DecodeRequest) -> dict[str, Any]:
    """What a graph takes over of a policy's state: where its tensors lie, and whatever else it holds, by name."""
    if request.policy is None:
        return {}
    return {name: each.data_ptr() for name, each in request.state.tensors().items()} | request.state.constants()
