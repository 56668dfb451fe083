"""The small tokenizer: Qwen2's file format, names and behaviour."""

import pytest
from transformers import Qwen2Tokenizer

from dycoke.nano import MODEL_PATH
from dycoke.nano import tokenizer as nano_tokenizer

TEXTS = [
    "What color is the circle at the end?",
    "A green circle appears and moves up, then the circle turns blue.",
    "7, 0, 7, 12",
    "  zwei\n\nZeilen mit Ümläuten, 日本 and 🙂\t",
    "don't STOP",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Qwen2Tokenizer.from_pretrained(MODEL_PATH)


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_specials_have_one_id_each(tokenizer):
    ids = [tokenizer(name).input_ids for name in nano_tokenizer.SPECIALS]
    assert ids == [[len(tokenizer) - 3], [len(tokenizer) - 2], [len(tokenizer) - 1]]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert (
        tokenizer.decode(tokenizer("<|im_start|>user\nred<|im_end|>").input_ids, skip_special_tokens=True)
        == "user\nred"
    )


def test_size_and_words(tokenizer):
    assert len(tokenizer) <= nano_tokenizer.MAX_ENTRIES
    # words of the questions and answers are one token, digits one each
    assert [len(tokenizer(" " + word).input_ids) for word in ("circle", "magenta", "appears", "then")] == [1] * 4
    assert len(tokenizer("1234").input_ids) == 4


@pytest.mark.slow
def test_training_repeats_itself_and_serves_as_well_as_the_shipped_files(tokenizer, tmp_path):
    sizes = [nano_tokenizer.train(tmp_path / run) for run in "ab"]
    assert sizes[0] == sizes[1]
    for name in nano_tokenizer.FILES:
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    fresh = nano_tokenizer.load(tmp_path / "a")
    assert (fresh.eos_token, fresh.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert not [entry for entry in fresh.get_vocab() if len(entry.strip("Ġ")) > 1 and any(c.isdigit() for c in entry)]
    texts = list(nano_tokenizer.corpus(50))
    fresh_tokens, shipped_tokens = (sum(len(t(text).input_ids) for text in texts) for t in (fresh, tokenizer))
    assert shipped_tokens == pytest.approx(fresh_tokens, rel=0.01)


def test_wrong_inputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="entries=100"):
        nano_tokenizer.train(tmp_path, 100)
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        nano_tokenizer.load(tmp_path)
