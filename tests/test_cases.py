"""Cases folded into one test: all of them run, and the one that fails is named."""

from itertools import combinations, product

import pytest

from tests.cases import case, every_pair, folded

AXES = (["hf", "llava", "qwen"], range(7), [True, False], "abcdefg")


def test_every_case_runs_with_the_fixtures():
    seen = []

    @folded("a", [1, 2])
    @folded("b, c", [(3, 4), (5, 6)])
    def run(fixture, a, b, c):
        seen.append((fixture, a, b, c))

    run(fixture="f")
    assert seen == [("f", 1, 3, 4), ("f", 1, 5, 6), ("f", 2, 3, 4), ("f", 2, 5, 6)]


def test_the_case_that_fails_is_named():
    @folded("a", [1, 2, 3])
    def run(a):
        assert a < 2

    with pytest.raises(AssertionError) as raised:
        run()
    assert raised.value.__notes__ == ["case: a=2"]
    with pytest.raises(ValueError) as raised, case(method="full", frames=8):
        raise ValueError
    assert raised.value.__notes__ == ["case: method=full, frames=8"]


def test_a_case_that_skips_leaves_the_others():
    seen = []

    @folded("a", [1, 2, 3])
    def run(a, last):
        if a <= last:
            pytest.skip("not here")
        seen.append(a)

    run(last=2)
    assert seen == [3]
    with pytest.raises(pytest.skip.Exception):
        run(last=3)


@folded("word", ["one", "two"])
@pytest.mark.parametrize("number", [1, 2])
def test_other_parameters_stay_ids(request, number, word):
    assert request.node.name == f"test_other_parameters_stay_ids[{number}]" and word in ("one", "two")


def test_what_a_test_does_not_take_is_refused():
    with pytest.raises(AssertionError, match="takes no frames"):
        folded("frames", [1])(lambda name: None)
    with pytest.raises(AssertionError, match="no values of frames"):
        folded("frames", [])


def test_rows_cover_every_pair_and_are_few():
    rows = every_pair(*AXES)
    assert len(rows) < 60 and set(rows) <= set(product(*AXES))
    for (i, one), (j, other) in combinations(enumerate(AXES), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(one, other))
