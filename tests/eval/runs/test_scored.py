"""What each sample scored, out of what lmms-eval logs."""

from __future__ import annotations

import pytest

from dycoke.eval.runs.sample_scores import scored


def logged(values, metric="right", order=None, videos=None):
    """Samples as lmms-eval logs them, in any order."""
    order = range(len(values)) if order is None else order
    return [
        {"doc_id": number, "doc": {"video": videos[number]} if videos else {}, metric: values[number]}
        for number in order
    ]


def of(samples, scores, **config):
    """The scored samples of leaf tasks that are configured alike."""
    return scored({"samples": samples, "configs": dict.fromkeys(samples, config)}, scores)


def test_scores_stand_by_document():
    found = of({"one": logged([1.0, 0.0, 0.5], order=[2, 0, 1])}, {"one": {"right": 0.5, "right_stderr": 0.2}})
    assert found == {"one": {"clusters": [0, 1, 2], "values": {"right": [1.0, 0.0, 0.5]}}}


def test_videos_are_the_same_over_leaf_tasks():
    samples = {
        "one": logged([1, 0, 1], videos=["b", "a", "b"]),
        "two": logged([0, 1, 1], videos=["a", "c", "b"]),
    }
    found = of(samples, {name: {"right": 2 / 3} for name in samples}, cluster_key="video")
    assert [found[name]["clusters"] for name in samples] == [[0, 1, 0], [1, 2, 0]]


def test_without_videos_each_document_stands_for_itself():
    samples = {"one": logged([1, 0]), "two": logged([1, 0])}
    scores = {name: {"right": 0.5} for name in samples}
    for config in ({}, {"cluster_key": None}, {"cluster_key": "not there"}):
        assert [each["clusters"] for each in of(samples, scores, **config).values()] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("config", [{}, {"score_key": "score"}, {"score_key": "mark"}])
def test_a_mapping_holds_its_score_and_percent_stay_percent(config):
    key = config.get("score_key", "score")
    samples = {"one": logged([{key: 1.0, "pred": "A"}, {key: 0.0}, {key: 1.0}, {key: 1.0}])}
    assert of(samples, {"one": {"right": 75.0}}, **config)["one"]["values"] == {"right": [100.0, 0.0, 100.0, 100.0]}


def test_right_and_wrong_may_be_true_and_false():
    assert of({"one": logged([True, False])}, {"one": {"right": 0.5}})["one"]["values"] == {"right": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ([1.0, 0.0], 0.7),  # no mean of the samples
        ([1.0, None], 0.5),
        ([1.0, {"pred": 1}], 0.5),
        (["A", "B"], 0.5),
        ([1.0, 0.0], None),
        ([], 0.5),
    ],
)
def test_what_is_no_mean_of_numbers_is_left_out(values, score):
    assert of({"one": logged(values)}, {"one": {"right": score}}) == {}


def test_one_metric_of_two_may_be_a_mean():
    samples = {"one": [sample | {"other": "text"} for sample in logged([1.0, 0.0])]}
    found = of(samples, {"one": {"right": 0.5, "other": 3.0}})
    assert list(found["one"]["values"]) == ["right"]


def test_samples_that_several_filters_logged_are_left_out():
    assert of({"one": logged([1.0, 0.0, 1.0, 0.0], order=[0, 1, 0, 1])}, {"one": {"right": 0.5}}) == {}
