"""`dycoke bench video` on a small clip."""

from __future__ import annotations

import json

from dycoke.bench.video import clips as video_clips
from dycoke.bench.video import run as video


def test_the_record_says_who_read_what_and_whether_it_was_right(dycoke, tmp_path):
    file = tmp_path / "video.json"
    options = ("--clips", "tiny", "--frames", "5", "--readers", "pyav", "--times", 2, "--rounds", 1, "--json", file)
    done = dycoke("bench", "video", *options)
    assert done.code == 0, done.err
    record = json.loads(file.read_text())
    assert record["complete"] and record["cores"] >= 1
    (clip,) = record["clips"]
    (row,) = clip["results"]
    assert row["reader"] == "pyav" and row["right"] and row["of_fastest"] == 1 and len(row["seconds"]) == 2
    assert "5 frames  pyav (ours)" in done.out


def test_frames_of_a_clip_carry_their_number(tmp_path):
    from dycoke.video.frames import read_frames

    clip = video_clips.Clip("double", 384, 64, rate=4, seconds=3, keys=4, copies=2)
    frames = read_frames(clip.write(tmp_path), 24)
    assert [video_clips.number_of(frame) for frame in frames] == [clip.number(place) for place in range(24)]
    assert clip.number(12) == 0


def test_other_frames_than_asked_for_are_not_right(monkeypatch):
    read = {"seconds": [1.0], "peak_bytes": 1, "right": False}
    row = video._row("decord", 8, [read, {**read, "right": True}])
    assert not row["right"] and "other frames than asked for" in video._told({**row, "of_fastest": None})


def test_what_there_is_none_of(dycoke):
    assert "clips 8k: expected some of" in dycoke("bench", "video", "--clips", "8k").complaint
    assert "reader='opencv': expected one of" in dycoke("bench", "video", "--readers", "opencv").complaint
