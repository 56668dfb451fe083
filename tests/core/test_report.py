"""The report says what was really done."""

import itertools
import time

import pytest
import torch

import dycoke
from tests.support.subjects import HF_VIDEO, PROMPTS, SUBJECTS, forward, greedy


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_tokens_by_stage(name):
    subject = SUBJECTS[name]()
    per_frame = subject.grid[0] * subject.grid[1]
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.7)) as run:
        with pytest.raises(RuntimeError, match="no report yet"):
            _ = run.report
        greedy(subject, PROMPTS["one_video"], eos_token_id=None)
        report = run.report
    kept = 2 * per_frame + 6 * int((1 - 0.7) * per_frame)
    tokens = {stage: value.tokens for stage, value in report.stages.items()}
    assert tokens == {
        "vision": 8 * per_frame,
        "compress": kept,
        "prefill": kept + 5 + 1,  # five text tokens and the newline
        "decode": 5,  # the first of six tokens comes from prefill
    }
    assert report.frames == 8 and report.method == "dycoke"
    assert report.visual_kept == kept / (8 * per_frame)
    assert all(stage.ms > 0 for stage in report.stages.values())
    assert report.decode_ms_per_token == report.stages["decode"].ms / 5
    assert "dycoke: 8 frames" in str(report) and str(kept) in str(report)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_each_request_has_its_own_report(name):
    subject = SUBJECTS[name]()
    per_frame = subject.grid[0] * subject.grid[1]
    with dycoke.attach(subject.model, dycoke.build("full")) as run:
        greedy(subject, PROMPTS["batch"], eos_token_id=None)
        assert run.report.stages["decode"].tokens == 4 * 5
        assert run.report.stages["vision"].tokens == 4 * 8 * per_frame
        assert run.report.stages["prefill"].tokens == 4 * (8 * per_frame + 1) + 5 + 7 + 3 + 2
        greedy(subject, PROMPTS["text"])
        report = run.report
        assert report.stages["vision"].tokens == 0 and report.stages["vision"].ms is None
        assert report.stages["prefill"].tokens == 4 and report.visual_kept is None
        forward(subject, PROMPTS["one_video"])
        assert run.report.stages["decode"].tokens == 0 and run.report.decode_ms_per_token is None


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_each_video_of_a_batch_is_told_apart(name):
    subject = SUBJECTS[name]()
    per_frame = subject.grid[0] * subject.grid[1]
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.5)) as run:
        greedy(subject, PROMPTS["batch"])
        report = run.report
    assert [(video.frames, video.made) for video in report.videos] == [(8, 8 * per_frame)] * 4
    assert sum(video.kept for video in report.videos) == report.stages["compress"].tokens
    assert {video.kept for video in report.videos} == {2 * per_frame + 6 * int(0.5 * per_frame)}


def test_peak_is_measured_on_linux():
    subject = SUBJECTS["llava"]()
    with dycoke.attach(subject.model, dycoke.build("full")) as run:
        greedy(subject, PROMPTS["one_video"])
        peaks = [stage.peak_bytes for stage in run.report.stages.values()]
    assert all(peak is not None and peak > 10 * 2**20 for peak in peaks)


def test_a_refused_request_leaves_no_time_behind(monkeypatch):
    """<video> ids that text takes apart are as many as the features, so the request fails behind the vision tower."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    subject = SUBJECTS["hf"]()
    good = subject.inputs(PROMPTS["one_video"])
    apart = torch.tensor([[5, *[HF_VIDEO] * 36, 7, *[HF_VIDEO] * 37, 8]])
    with dycoke.attach(subject.model, dycoke.build("full")) as run:
        subject.model(**good)
        alone = run.report.stages["vision"].ms
        with pytest.raises(ValueError, match="73 <video> ids for 1 videos of 8 frames"):
            subject.model(input_ids=apart, pixel_values_videos=good["pixel_values_videos"])
        subject.model(**good)
        assert run.report.stages["vision"].ms == alone
