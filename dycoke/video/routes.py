"""Names of the ways to make pixels of frames; see `dycoke.video.pixels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROUTES = ("exact", "device")
AUTO = "auto"


def check_route(value: Any, accepted: Sequence[str] = ROUTES) -> None:
    """Raise ValueError unless `value` names a way to make pixels."""
    if value not in accepted:
        raise ValueError(f"preprocess={value!r}: expected one of {', '.join(accepted)}")
