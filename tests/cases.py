"""Many cases in one test: loops that name the case that fails, and choices of cases that cover every pair.

    @folded("frames", [1, 3, 8])               # instead of pytest.mark.parametrize: one test that goes through them all
    @pytest.mark.parametrize("name", METHODS)
    def test_it(name, frames): ...

Where a matrix of parameters says little, one id for each method, file or model is enough; what fails still says which
case it was. Fixtures of a test are made once for all of its cases.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def case(**given: Any) -> Iterator[None]:
    """Add the values given to whatever is raised in the block."""
    try:
        yield
    except Exception as error:
        error.add_note("case: " + ", ".join(f"{name}={value}" for name, value in given.items()))
        raise


def folded(names: str | Sequence[str], values: Iterable[Any], ids: Any = None) -> Callable[[Callable], Callable]:
    """Go through the values within one test. Takes what `pytest.mark.parametrize` takes; ids are for its callers' ease.

    A case that skips leaves the others; where all of them do, so does the test.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = [tuple(row) if len(names) > 1 else (row,) for row in values]
    assert rows, f"no values of {', '.join(names)}"
    assert all(len(row) == len(names) for row in rows)

    def loop(test: Callable) -> Callable:
        @functools.wraps(test)
        def all_cases(**fixtures: Any) -> None:
            skipped = []
            for row in rows:
                given = dict(zip(names, row, strict=True))
                try:
                    with case(**given):
                        test(**fixtures, **given)
                except pytest.skip.Exception as skip:
                    skipped.append(skip)
            if len(skipped) == len(rows):
                raise skipped[0]

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in names]
        assert len(left) + len(names) == len(signature.parameters), f"{test.__name__} takes no {', '.join(names)}"
        all_cases.__signature__ = signature.replace(parameters=left)
        return all_cases

    return loop


def mostly_thorough(values: Iterable[Any], few: Sequence[Any]) -> list[Any]:
    """Parameters of which all but a few run with --all alone."""
    values = list(values)
    assert all(each in values for each in few), f"{few} of {values}"
    return [each if each in few else pytest.param(each, marks=pytest.mark.thorough) for each in values]


def every_pair(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with a value of each axis, such that any two values of any two axes stand together in one of them.

    Greedy: each row is the one, of all there are, that covers most pairs that no row before it has.
    """
    everything = list(itertools.product(*(range(len(axis)) for axis in axes)))
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in everything}
    missing, rows = set().union(*pairs.values()), []
    while missing:
        best = max(everything, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[best]
        rows.append(tuple(axis[place] for axis, place in zip(axes, best, strict=True)))
    return rows
