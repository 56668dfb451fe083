"""The order in which a compressor hands out what it kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def arrange(embeds: Tensor, index: Tensor, total: int, raster: bool) -> tuple[Tensor, Tensor]:
    """Tokens [M, D] and their slots [M]: in raster order if asked, or if all `total` slots are kept, else as given.

    A published order says where to put what is left of a video; where everything is left, it is the video's own.
    """
    if not raster and len(index) < total:
        return embeds, index
    index, order = index.sort()
    return embeds.index_select(0, order), index
