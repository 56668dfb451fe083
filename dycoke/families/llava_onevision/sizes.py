"""What the config.json of a LLaVA-OneVision checkpoint in transformers' own format tells of its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dycoke.families.sizes import Evaluated, Sizes, context_in, part_of, patches_in, size_in


def sizes(config: Mapping[str, Any], model: Evaluated) -> Sizes:
    """As `dycoke.families.sizes.sizes_in`. A newline stands behind a video, which suits every method."""
    text, vision = (part_of(config, f"{part}_config") for part in ("text", "vision"))
    side = patches_in(vision)
    per_frame = None if side is None else math.ceil(side / 2) ** 2
    return Sizes(size_in(text, "num_hidden_layers"), context_in(text), per_frame)
