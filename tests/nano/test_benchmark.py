"""NanoVideoBench: the same questions and files everywhere, one question of each family a video, and its command."""

from __future__ import annotations

import hashlib
import json
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from dycoke.nano import benchmark
from dycoke.nano.benchmark import cached_video, documents, main, write_video
from dycoke.nano.generator import FAMILIES, LEVELS, clip_questions, sample_scenes, stories
from dycoke.nano.generator.splits import SPLITS, split_seeds
from dycoke.nano.video import frames_of
from dycoke.video.frames import read_frames
from tests.nano.seeds import split_of

# of the questions and answers of the benchmark as its tasks ask them, 1200 of 100 videos: results are of these
DIGEST = "be3bb471c02db08f"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of caches."""
    monkeypatch.setenv("DYCOKE_CACHE", str(tmp_path))
    return tmp_path


def test_the_questions_are_these():
    text = json.dumps(documents(), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGEST
    assert len(documents()) == 1200


@pytest.mark.parametrize("level", LEVELS)
def test_every_family_asks_one_question_about_each_video(level):
    found = documents(videos=30, level=level)
    names = list(dict.fromkeys(doc["video"] for doc in found))
    assert len(names) == 30
    for place, name in enumerate(names):
        asked = found[12 * place : 12 * (place + 1)]
        assert {doc["video"] for doc in asked} == {name}
        assert [doc["family"] for doc in asked] == list(FAMILIES)
        assert all(doc["task"] in FAMILIES[doc["family"]].tasks for doc in asked)
        (seed,) = {doc["seed"] for doc in asked}
        (story,) = stories(sample_scenes(torch.tensor([seed]), level))
        right = {(question.task, question.text, question.answer) for question in clip_questions(story)}
        assert {(doc["task"], doc["question"], doc["answer"]) for doc in asked} <= right


def test_what_is_asked_of_a_video_does_not_depend_on_the_others():
    many = documents(videos=70)
    assert documents(videos=5) == many[: 5 * 12]
    later = many[40 * 12]["number"]
    assert documents(videos=10, start=later) == many[40 * 12 : 50 * 12]
    assert documents(videos=70, families=("speed", "digits")) == [
        doc for doc in many if doc["family"] in ("speed", "digits")
    ]


def test_a_video_that_a_family_has_no_question_about_is_passed_over():
    numbers = {doc["number"] for doc in documents(videos=70)}
    passed = [number for number in range(max(numbers)) if number not in numbers]
    assert passed
    for number in passed:
        (story,) = stories(sample_scenes(split_seeds("test", number, 1)))
        tasks = {question.task for question in clip_questions(story)}
        assert any(not tasks & set(family.tasks) for family in FAMILIES.values())


def test_a_family_with_several_questions_asks_all_kinds_of_them():
    found = documents(videos=100)
    for family in FAMILIES.values():
        assert {doc["task"] for doc in found if doc["family"] == family.name} == set(family.tasks)
    orders = [doc["question"] for doc in found if doc["family"] == "order"]
    assert all(5 < orders.count(question) < 40 for question in set(orders)) and len(set(orders)) == 5


def test_splits_share_no_video():
    seeds = {split: {doc["seed"] for doc in documents(split, 50)} for split in SPLITS}
    assert all({split_of(seed) for seed in seeds[split]} == {split} for split in SPLITS)
    read = {split: {doc["answer"] for doc in documents(split, 50, families=("transcript",))} for split in SPLITS}
    assert len(set.union(*read.values())) == 150


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"videos": 0}, "videos=0: expected at least 1"),
        ({"split": "dev"}, "split='dev': expected one of train, validation, test"),
        ({"level": "harder"}, "level='harder': expected one of easy, standard, hard"),
        ({"start": -1}, "start=-1"),
        ({"families": ("digits", "counting")}, "family counting: expected some of direction, "),
    ],
)
def test_what_is_not_there_is_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        documents(**{"videos": 1} | given)


def test_a_video_shows_its_scene_and_is_made_once(home):
    path = cached_video("test", "standard", 4)
    assert path.parent.parent.parent == home / "nanovideo" and path.name == "0004.mp4"
    shown = read_frames(path, 64)
    drawn = frames_of(sample_scenes(split_seeds("test", 4, 1))).numpy()
    assert shown.shape == drawn.shape
    assert abs(shown.astype(int) - drawn).mean() < 12  # grain is lost in encoding
    made = path.stat()
    assert cached_video("test", "standard", 4) == path and path.stat().st_mtime_ns == made.st_mtime_ns
    others = cached_video("test", "hard", 4), cached_video("validation", "standard", 4)
    assert len({file.read_bytes() for file in (path, *others)}) == 3
    assert {file.name for file in path.parent.iterdir()} == {"0004.mp4"}


def test_files_of_another_version_are_not_taken(home, tmp_path, monkeypatch):
    before = cached_video("test", "standard", 4)
    version = benchmark.version()
    sources = tmp_path / "sources"
    (sources / "generator").mkdir(parents=True)
    for name in ("splits.py", "video.py", "generator/scene.py"):
        (sources / name).write_text("VERSION = 1\n")
    seen = {version}
    monkeypatch.setattr(benchmark, "HOME", sources)
    for name in ("splits.py", "video.py", "generator/scene.py", "generator/new.py"):
        (sources / name).write_text("VERSION = 2\n")
        benchmark.version.cache_clear()
        seen.add(benchmark.version())
    benchmark.version.cache_clear()
    monkeypatch.setattr("av.__version__", "0.0")
    seen.add(benchmark.version())
    assert len(seen) == 6
    assert cached_video("test", "standard", 4) != before
    benchmark.version.cache_clear()


@pytest.mark.parametrize(
    ("set_to", "folder"),
    [
        ({"DYCOKE_CACHE": "/here", "XDG_CACHE_HOME": "/there"}, "/here/nanovideo"),
        ({"XDG_CACHE_HOME": "/there"}, "/there/dycoke/nanovideo"),
        ({"XDG_CACHE_HOME": "", "HOME": "/me"}, "/me/.cache/dycoke/nanovideo"),
    ],
)
def test_the_folder_of_caches_can_be_named(monkeypatch, set_to, folder):
    for name in ("DYCOKE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert benchmark.cache_folder().parent == Path(folder)


def _make(number: int) -> str:
    torch.set_num_threads(1)
    return hashlib.sha256(cached_video("test", "easy", number).read_bytes()).hexdigest()


@pytest.mark.slow
def test_processes_that_make_the_same_files_agree(home):
    with get_context("spawn").Pool(2) as pool:
        found = pool.map(_make, [0, 0, 1, 1, 0, 1], chunksize=1)
    assert len(set(found)) == 2 and found[0] == found[1] == found[4] and found[2] == found[3] == found[5]
    (folder,) = home.glob("nanovideo/*/*")
    assert sorted(file.name for file in folder.iterdir()) == ["0000.mp4", "0001.mp4"]
    write_video(folder / "again.mp4", "test", "easy", 0)
    assert hashlib.sha256((folder / "again.mp4").read_bytes()).hexdigest() == found[0]


def test_a_file_that_cannot_be_finished_is_not_there(home, monkeypatch):
    def broken(path, frames, rate):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(benchmark, "write_mp4", broken)
    with pytest.raises(OSError, match="No space left"):
        cached_video("test", "standard", 4)
    (folder,) = home.glob("nanovideo/*/*")
    assert not list(folder.iterdir())


def test_the_command_writes_videos_and_annotations(tmp_path, capsys):
    folder = tmp_path / "new" / "bench"
    scenes = ["--split", "validation", "--level", "hard", "--seed-start", "7"]
    main([str(folder), "--videos", "2", *scenes, "--frames", "12"])
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: 2 videos, 24 questions in annotations.json, ") and out.count("\n") == 1
    written = json.loads((folder / "annotations.json").read_text())
    assert (written["name"], written["split"]) == ("NanoVideoBench", "validation")
    found = documents("validation", 2, "hard", 7)
    assert sorted(file.name for file in folder.iterdir()) == [*sorted(written["videos"]), "annotations.json"]
    for name, entry in written["videos"].items():
        asked = [doc for doc in found if doc["video"] == name]
        keys = "family", "task", "question", "answer", "spacing"
        assert entry.pop("questions") == [{key: doc[key] for key in keys} for doc in asked]
        facts = {"number": asked[0]["number"], "seed": asked[0]["seed"]}
        assert entry == facts | {"level": "hard", "frames": 12, "rate": 1.5} and facts["number"] >= 7
        scene = sample_scenes(torch.tensor([facts["seed"]]), "hard")
        assert abs(read_frames(folder / name, 12).astype(int) - frames_of(scene, 12).numpy()).mean() < 15


def test_annotations_are_there_once_their_videos_are(tmp_path, monkeypatch):
    main([str(tmp_path), "--videos", "1"])
    before = (tmp_path / "annotations.json").read_bytes()

    def refuse(*_):
        raise OSError("No space left on device")

    with pytest.raises(SystemExit):
        main([str(tmp_path), "--videos", "1", "--frames", "7"])
    assert (tmp_path / "annotations.json").read_bytes() == before
    monkeypatch.setattr(benchmark, "write_mp4", refuse)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--videos", "1"])
    assert [file.name for file in tmp_path.iterdir()] == ["0000.mp4"]


@pytest.mark.parametrize("given", [["--frames", "65"], ["--videos", "0"], ["--level", "x"], ["--split", "dev"]])
def test_wrong_input_is_said_and_nothing_written(tmp_path, capsys, given):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "new"), *given])
    assert ended.value.code == 2
    assert f"{given[0].removeprefix('--')}=" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()
