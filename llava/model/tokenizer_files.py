"""Whether a folder holds a whole tokenizer; the readers of transformers make do with half of one without a word."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

_NAMED = 3  # entries an error shows before it only counts them
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of a sentencepiece model, in the order they are written
_MARKER = re.compile(r"<\|[^|\s]+\|>")  # special tokens as chat templates write them


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError naming one that does not."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected an object")
    return content


def check_tokenizer_files(folder: Path) -> None:
    """Raise ValueError or FileNotFoundError naming the file of a tokenizer that is damaged, not whole, or not there."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json")
    contents = {name: read_object(folder / name) for name in names if (folder / name).is_file()}
    for name, key in (("tokenizer.json", "model"), ("tokenizer_config.json", "added_tokens_decoder")):
        value = contents.get(name, {}).get(key, None if name == "tokenizer.json" else {})
        if name in contents and not isinstance(value, dict):
            raise ValueError(f"{folder / name}: {key} is {value!r}, expected an object")
    added = _added(folder, contents)
    if "tokenizer.json" in contents:
        model = contents["tokenizer.json"]["model"]
        if isinstance(model.get("vocab"), dict):  # of a unigram model it is a list, whose places are the ids
            _check_vocabulary(folder / "tokenizer.json", model["vocab"], added)
            if model.get("type") == "BPE" and not model.get("ignore_merges"):
                _check_merges(folder / "tokenizer.json", model.get("merges", []), model["vocab"], added)
    elif "vocab.json" in contents:
        if not (folder / "merges.txt").is_file():
            raise FileNotFoundError(f"{folder} holds half a tokenizer: vocab.json without merges.txt")
        _check_vocabulary(folder / "vocab.json", contents["vocab.json"], added)
        _check_merges(folder / "merges.txt", _read_merges(folder / "merges.txt"), contents["vocab.json"], added)
    elif (folder / "tokenizer.model").is_file():
        _check_pieces(folder / "tokenizer.model")


def check_special_tokens(
    tokenizer: PreTrainedTokenizerBase, folder: Path, markers: Iterable[str], ids: Iterable[Any] = ()
) -> None:
    """Raise ValueError unless each of the markers is one token, and the tokenizer has each of the ids.

    ids: what a config names, texts, lists and None among them being passed over.
    """
    where = _declaring(folder / "tokenizer_config.json")
    broken = [each for each in markers if len(tokenizer.encode(each, add_special_tokens=False)) != 1]
    if broken:
        raise ValueError(
            f"{where} {', '.join(broken)}: the tokenizer takes it apart, and prompts would not be the model's"
        )
    absent = sorted({each for each in ids if isinstance(each, int) and each >= len(tokenizer)})
    if absent:
        listed = ", ".join(map(str, absent))
        raise ValueError(
            f"{where} the token of id {listed}, which config.json names: the tokenizer has {len(tokenizer)}"
        )


def markers_in(template: str) -> list[str]:
    """The special tokens a chat template writes."""
    return sorted(set(_MARKER.findall(template)))


def _added(folder: Path, contents: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Tokens beside the vocabulary, by the files that declare them."""
    try:
        found = {
            each["content"]: int(number)
            for number, each in contents.get("tokenizer_config.json", {}).get("added_tokens_decoder", {}).items()
        }
        found |= {
            each["content"]: int(each["id"]) for each in contents.get("tokenizer.json", {}).get("added_tokens", [])
        }
        found |= {text: int(number) for text, number in contents.get("added_tokens.json", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: what its tokenizer files add are not tokens: {error!r}") from error
    return found


def _check_vocabulary(file: Path, vocab: dict[str, Any], added: dict[str, int]) -> None:
    if not vocab or any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in vocab.values()):
        raise ValueError(f"{file}: its vocabulary does not give every entry a number")
    numbers = {*vocab.values(), *added.values()}
    gap = sorted(set(range(max(numbers) + 1)) - numbers)
    if gap:
        raise ValueError(f"{file}: {len(gap)} of the numbers up to {max(numbers)} have no entry, the first is {gap[0]}")


def _read_merges(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: {error}") from error
    return [line for line in lines if line and not line.startswith("#version")]


def _declaring(file: Path) -> str:
    """How the file that declares special tokens fails to."""
    return f"{file} does not declare" if file.is_file() else f"{file} is missing, which declares"


def _check_merges(file: Path, merges: Any, vocab: dict[str, int], added: dict[str, int]) -> None:
    """Every merge makes an entry, and of a byte-level vocabulary every entry is a byte, or made, or declared."""
    made = set()
    for number, merge in enumerate(merges, start=1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or "".join(map(str, parts)) not in vocab:
            raise ValueError(f"{file}, merge {number}: {merge!r} does not make an entry of the vocabulary")
        made.add("".join(parts))
    if "Ġ" not in vocab:  # a space as byte-level vocabularies write it; others hold every character they know
        return
    unmade = [entry for entry in vocab if len(entry) > 1 and entry not in made and entry not in added]
    if unmade and all(entry[0] == "<" and entry[-1] == ">" for entry in unmade):
        special = _declaring(file.parent / "tokenizer_config.json")
        raise ValueError(
            f"{special} {', '.join(unmade[:_NAMED])}, which stand in the vocabulary and are not made by merges"
        )
    if unmade:
        listed = ", ".join(map(repr, unmade[:_NAMED])) + (", ..." if len(unmade) > _NAMED else "")
        raise ValueError(
            f"{file}: {len(made)} merges cannot make the {len(vocab)} entries of the vocabulary: {len(unmade)} are "
            f"neither made nor declared as tokens ({listed})"
        )


def _check_pieces(file: Path) -> None:
    """A sentencepiece model has its settings behind its pieces, so that one that was cut has none."""
    content, at, seen = file.read_bytes(), 0, set()
    try:
        while at < len(content):
            key, at = _varint(content, at)
            length, at = _varint(content, at)
            at += length
            seen.add(key >> 3)
    except IndexError:
        at = len(content) + 1
    if at != len(content) or not {_PIECES, _TRAINER, _NORMALIZER} <= seen:
        raise ValueError(f"{file} is truncated or not a sentencepiece model")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of protobuf's and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
