"""Keeping everything equals the untouched model: greedy ids, and logits to 1e-5."""

import pytest
import torch

import dycoke
from tests.support.subjects import PROMPTS, STILLS, SUBJECTS, forward, greedy

NOTHING_REMOVED = {
    "full": dycoke.build("full"),
    "K=0": dycoke.build("dycoke", k=0.0, p=0.0),
    "K=0 original": dycoke.build("dycoke", k=0.0, p=0.0, l=1, positions="original"),
    "random all": dycoke.build("random_drop", keep=1.0),
    "frames all": dycoke.build("uniform_frames", keep=1.0),
}
CASES = [(s, p) for s in SUBJECTS for p in [*PROMPTS, *STILLS] if s in ("llava", "hf") or p in ("batch", "two_videos")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    name, prompt = request.param
    subject = SUBJECTS[name]()
    prompts = (PROMPTS | STILLS)[prompt]
    return subject, prompts, greedy(subject, prompts), forward(subject, prompts)


@pytest.mark.parametrize("method", NOTHING_REMOVED.values(), ids=NOTHING_REMOVED)
def test_nothing_removed_is_the_untouched_model(case, method):
    subject, prompts, ids, (logits, real) = case
    with dycoke.attach(subject.model, method):
        got_ids = greedy(subject, prompts)
        got, got_real = forward(subject, prompts)
    assert torch.equal(got_ids, ids)
    assert torch.equal(got_real, real)
    torch.testing.assert_close(got[real], logits[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["full", "K=0"])
@pytest.mark.parametrize("name", ["llava", "hf"])
@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 2}, {"cache_implementation": "static"}])
def test_nothing_removed_with_beams_and_static_cache(name, options, method):
    subject = SUBJECTS[name]()
    want = greedy(subject, PROMPTS["batch"], **options)
    with dycoke.attach(subject.model, NOTHING_REMOVED[method]):
        assert torch.equal(greedy(subject, PROMPTS["batch"], **options), want)


@pytest.mark.parametrize("name", ["llava", "llava_grid", "hf"])
def test_removing_changes_the_answer(name):
    """The check above could pass with a method that never runs; this one could not."""
    subject = SUBJECTS[name]()
    prompts = PROMPTS["one_video"]
    untouched, _ = forward(subject, prompts)
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.7)) as run:
        shortened, _ = forward(subject, prompts)
        report = run.report
    assert shortened.shape[1] < untouched.shape[1]
    assert (shortened[0, -1] - untouched[0, -1]).abs().max() > 1e-3
    made = 8 * subject.grid[0] * subject.grid[1]
    assert report.stages["vision"].tokens == made
    assert report.stages["compress"].tokens == dycoke.build("dycoke").plan().before.count(8, made // 8)
