"""The comparison of compressors: its answers are those of `scoring`, its rows say what was kept and covered."""

import json

import pytest
import torch

from dycoke.families.chat import load_chat, placement
from dycoke.nano import MODEL_PATH, compare
from dycoke.nano import tokenizer as nano_tokenizer
from dycoke.nano.architecture import SHAPES, build_model
from dycoke.nano.batches import Chat, evaluation_scenes
from dycoke.nano.generator import TICKS, clip_questions, stories
from dycoke.nano.scoring import _right
from dycoke.nano.step import NanoStep
from dycoke.nano.views import spacing
from dycoke.types import Compressed, VisualTokens


@pytest.fixture(scope="module")
def untrained():
    tokenizer = nano_tokenizer.load(MODEL_PATH)
    return NanoStep(build_model(tokenizer, SHAPES["tiny"], seed=0), Chat(tokenizer).prefix).eval()


def test_clips_waste_tokens_or_lack_them():
    ticks = {name: clip() for name, clip in compare.CLIPS.items()}
    assert {name: len(each) for name, each in ticks.items()} == {"native": 32, "brief": 16, "held": 48, "noisy": 32}
    assert ticks["brief"].tolist() == ticks["native"][::2].tolist()
    assert ticks["held"].tolist() == [0] * 8 + ticks["native"].tolist() + [TICKS - 1] * 8
    assert ticks["noisy"].equal(ticks["native"]) and ticks["native"].dtype == torch.int64


@pytest.mark.parametrize("clip", compare.CLIPS)
def test_a_clip_is_asked_what_its_frames_answer(untrained, clip):
    found = list(compare.videos(untrained, clip, 2, 6000))
    (widest,) = spacing(compare.CLIPS[clip]()[None])
    for (video, questions), story in zip(found, stories(evaluation_scenes(2, 6000)), strict=True):
        assert video.embeds.shape[:2] == (len(compare.CLIPS[clip]()), 16)
        assert questions == [q for q in clip_questions(story) if q.spacing >= widest]
        assert 20 < len(questions) < len(clip_questions(story)) or clip != "brief"


def test_noise_is_that_of_a_sensor_and_repeats(untrained):
    clean, noisy, again = (
        next(compare.videos(untrained, clip, 1, 6000))[0].embeds for clip in ("native", "noisy", "noisy")
    )
    assert torch.equal(noisy, again) and not torch.equal(noisy, clean)
    first, second = next(compare.videos(untrained, "held", 1, 6000))[0].embeds[[0, 7]]
    assert torch.equal(first, second)


def test_one_pass_gives_the_answers_of_one_pass_a_question():
    loaded = load_chat(str(MODEL_PATH), placement("cpu", "float32"))
    chat = Chat(loaded.tokenizer)
    step = NanoStep(loaded.model, chat.prefix).eval()
    video, questions = next(compare.videos(step, "native", 1, 6000))
    left = compare.at_keep("random_drop", 0.06).compress(video).embeds  # so few that some answers are wrong
    got = compare.right_answers(step, chat, left, questions)
    with torch.inference_mode():
        assert got == _right(step, left[None], questions, chat, lambda text: None)
    assert 0 < sum(got) < len(got)


def test_record(tmp_path):
    path = tmp_path / "record.json"
    asked = "--methods dycoke_adaptive,dycoke --keep 0.25,0.1 --clips brief --videos 1"
    compare.main([*asked.split(), "--json", str(path)])
    record = json.loads(path.read_text())
    assert record["command"].startswith(f"python -m dycoke.nano.compare {asked} --json")
    rows = [(row["keep"], row["method"], row["kept"]) for row in record["results"]]
    assert rows == [(0.25, "dycoke_adaptive", 0.25), (0.25, "dycoke", 0.25), (0.1, "dycoke_adaptive", 0.1016)]
    for row in record["results"]:
        assert 0 <= row["right"] <= row["asked"] and 0.5 < row["coverage"] < 1
        assert row["exact_match"]["mean"] <= 1


def test_coverage_looks_at_near_frames_only():
    embeds = torch.eye(2)[[0] * 8 + [1] * 4].view(12, 1, 2)
    left = Compressed(embeds[[0, 9], 0], torch.tensor([0, 9]))
    # frames 0 to 4 find their like at frame 0, frames 8 to 11 at frame 9; frames 5 to 7 find nothing like them
    assert compare.coverage(VisualTokens(embeds, (1, 1)), left) == pytest.approx(9 / 12)


def test_unknown_clip(capsys):
    with pytest.raises(SystemExit):
        compare.main(["--clips", "native,blurred"])
    assert "blurred: expected some of native, brief, held, noisy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name,said",
    [
        ("visionzip", "VisionZip needs keys, saliency, but here there are only tokens"),
        ("fastv", "fastv: expected a method before the language model that has an option keep or k"),
        ("full", "full: expected a method before"),
        ("nonesuch", "unknown method 'nonesuch'"),
    ],
)
def test_methods_that_cannot_be_compared_here(name, said):
    with pytest.raises(ValueError, match=said):
        compare.at_keep(name, 0.5)
