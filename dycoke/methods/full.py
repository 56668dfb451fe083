"""Keep every visual token: the baseline, run through the same path as every method."""

from __future__ import annotations

from dataclasses import dataclass

from dycoke.bases import KeepAll
from dycoke.registry import register
from dycoke.types import Plan


@register("full", source="the uncompressed model", retention="1", official="none: nothing to set")
@dataclass(frozen=True)
class Full:
    """Every visual token reaches the language model."""

    def plan(self) -> Plan:
        return Plan(before=KeepAll())
