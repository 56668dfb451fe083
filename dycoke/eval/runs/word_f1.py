"""Scores of long answers, word by word."""

from __future__ import annotations


def ordered_f1(answer: str, target: str) -> float:
    """F1, from 0 to 1, of the words that answer and target have in common in the same order.

    What they have in common is their longest common subsequence, as in ROUGE-L; words are parted by spaces, and end
    marks belong to no word. An empty answer scores 0.
    """
    said, right = _words(answer), _words(target)
    common = _common(said, right)
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _words(text: str) -> list[str]:
    return [word.strip(".,;:!?").lower() for word in text.split()]


def _common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        above = 0
        for place, other in enumerate(b, start=1):
            above, row[place] = row[place], above + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]
