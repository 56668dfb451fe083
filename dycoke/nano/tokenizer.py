"""The embedded model's tokenizer: a small byte-level BPE in the file format of Qwen2.

python -m dycoke.nano.tokenizer FOLDER      trains it and writes vocab.json, merges.txt, tokenizer_config.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dycoke.lab.interrupts import guarded

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, _, EOS = SPECIALS
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
MAX_ENTRIES = 2048
MODEL_MAX_LENGTH = 4096

_CORPUS_SCENES = 4000
_MIN_FREQUENCY = 3
# Qwen2's way of cutting text before the merges: contractions, words with one leading sign, single digits, signs, space
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FRAME_TEXT = (
    "system\nYou are a helpful assistant.",
    "user\nassistant\n",
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly. A. B. C. D.",
)


def corpus(scenes: int = _CORPUS_SCENES) -> Iterator[str]:
    """The text the merges are learnt on: questions and answers of `scenes` scenes, and the words of a chat."""
    import torch

    from dycoke.nano.generator import TICKS, clip_questions, image_questions, sample_scenes, stories

    yield from _FRAME_TEXT * 50
    rng = random.Random(0)
    for story in stories(sample_scenes(torch.arange(scenes))):
        for question in clip_questions(story, rng) + image_questions(story, rng.randrange(TICKS), rng):
            yield question.text
            yield question.answer


def train(folder: Path, entries: int = MAX_ENTRIES) -> int:
    """Learn the merges, write the three files, return the number of entries (at most `entries`, specials included).

    Raises ValueError if `entries` leaves no room for the 256 bytes and the specials, or exceeds MAX_ENTRIES.
    """
    if not 256 + len(SPECIALS) <= entries <= MAX_ENTRIES:
        raise ValueError(f"entries={entries}: expected {256 + len(SPECIALS)} to {MAX_ENTRIES}")
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=entries - len(SPECIALS),
        min_frequency=_MIN_FREQUENCY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    base = bpe.get_vocab_size()
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(base), indent=1) + "\n")
    return base + len(SPECIALS)


def _config(base: int) -> dict:
    """tokenizer_config.json of Qwen2's layout: the specials follow the `base` entries of vocab.json."""
    added = {
        str(base + i): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, name in enumerate(SPECIALS)
    }
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIALS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": MODEL_MAX_LENGTH,
        "pad_token": PAD,
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def load(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer in `folder`. Raises FileNotFoundError if vocab.json or merges.txt is not there."""
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; `python -m dycoke.nano.tokenizer FOLDER` makes one")
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer.from_pretrained(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=MAX_ENTRIES)
    options = parser.parse_args()
    written = train(options.folder, options.entries)
    parser.exit(message=f"{options.folder}: {written} entries\n")


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
