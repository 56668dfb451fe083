"""The score of long answers, against counts made by hand."""

import pytest

from dycoke.eval.runs.word_f1 import ordered_f1


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ("1, 2, 3", "1, 2, 3", 1.0),
        ("1, 3, 2", "1, 2, 3", 2 / 3),  # two of three in order, either way
        ("3 2 1", "1 2 3", 1 / 3),
        ("A red square.", "a red square", 1.0),
        ("a a a a", "a", 2 / 5),
        ("one two", "one two three four", 2 * 2 / 6),
        ("", "one", 0.0),
        ("one", "two", 0.0),
    ],
)
def test_common_words_in_order(answer, target, score):
    assert ordered_f1(answer, target) == pytest.approx(score)
    assert ordered_f1(target, answer) == pytest.approx(score)
