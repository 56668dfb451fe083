"""The order in which a compressor hands out what it kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dycoke.types import Compressed

if TYPE_CHECKING:
    from torch import Tensor


def arrange(embeds: Tensor, index: Tensor, total: int, raster: bool) -> Compressed:
    """Tokens [M, D] at slots [M]: in raster order if asked, or if all `total` slots are kept, else as they are.

    A published order says where to put what is left of a video; where everything is left, it is the video's own.
    """
    if not raster and len(index) < total:
        return Compressed(embeds, index)
    index, order = index.sort()
    return Compressed(embeds.index_select(0, order), index)
