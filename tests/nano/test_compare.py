"""The comparison of compressors: its answers are those of `scoring`, its rows say what was kept and covered."""

import json

import pytest
import torch

from dycoke.ask.chat import load_chat, placement
from dycoke.nano import MODEL_PATH, compare
from dycoke.nano.batches import Chat
from dycoke.nano.scoring import _right
from dycoke.nano.step import NanoStep
from dycoke.types import Compressed, VisualTokens


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
        ("visionzip", "VisionZip needs keys, saliency, and tokens alone are scored here"),
        ("fastv", "fastv: expected a method before the language model that has an option keep or k"),
        ("full", "full: expected a method before"),
        ("nonesuch", "unknown method 'nonesuch'"),
    ],
)
def test_methods_that_cannot_be_compared_here(name, said):
    with pytest.raises(ValueError, match=said):
        compare.at_keep(name, 0.5)
