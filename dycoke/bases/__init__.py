"""Bases of the three stages of a plan, and of what a decode policy knows about a request: where a new method begins."""

from dycoke.bases.stage import Before, Decode, Inside, KeepAll, KeepMost, Ordered, TopScores, option_of, part
from dycoke.bases.state import State

__all__ = ["Before", "Decode", "Inside", "KeepAll", "KeepMost", "Ordered", "State", "TopScores", "option_of", "part"]
