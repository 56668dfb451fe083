"""Half a tokenizer is refused by the name of the file that is not there or not whole, in both formats."""

import json
import shutil

import pytest
import torch
from transformers import LlamaTokenizer

from dycoke.families.chat import Placement, load_chat
from dycoke.nano import MODEL_PATH
from llava.model.tokenizer_files import check_tokenizer_files
from tests.cli.files import write_hf_checkpoint


@pytest.fixture
def nano(tmp_path):
    """A tokenizer with merges."""
    return shutil.copytree(MODEL_PATH, tmp_path / "nano")


@pytest.fixture
def hf(tmp_path):
    return write_hf_checkpoint(tmp_path / "hf")


def change(file, edit) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def refusal(path) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        load_chat(str(path), Placement("cpu", torch.float32))
    return " ".join(str(raised.value).split())


def without(content: dict, numbers: range) -> None:
    for entry in [entry for entry, number in content.items() if number in numbers]:
        del content[entry]


def test_whole_ones_are_read(nano, hf, goldens_dir):
    for path in (nano, hf):
        load_chat(str(path), Placement("cpu", torch.float32))
    for folder in (goldens_dir / "qwen2_tok", goldens_dir / "ckpt" / "llava-v1.5-tiny"):
        check_tokenizer_files(folder)


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer_config.json"])
def test_a_file_that_is_not_there(nano, name):
    (nano / name).unlink()
    assert name in refusal(nano)


@pytest.mark.parametrize("numbers", [range(5), range(100, 140), range(300, 301), range(690, 693)])
def test_a_vocabulary_that_lacks_a_range(nano, numbers):
    change(nano / "vocab.json", lambda content: without(content, numbers))
    assert "vocab.json" in refusal(nano)


@pytest.mark.parametrize("lines", [slice(0, 200), slice(0, -1), slice(5, None)])
def test_merges_that_lack_some(nano, lines):
    file = nano / "merges.txt"
    file.write_text("\n".join(file.read_text().splitlines()[lines]) + "\n")
    assert "merges.txt" in refusal(nano)


@pytest.mark.parametrize("keep", [[], ["693"], ["693", "694"]])
def test_special_tokens_that_are_not_declared(nano, keep):
    def edit(content):
        added = content["added_tokens_decoder"]
        content["added_tokens_decoder"] = {number: added[number] for number in keep}
        del content["additional_special_tokens"], content["eos_token"]

    change(nano / "tokenizer_config.json", edit)
    assert "tokenizer_config.json does not declare" in refusal(nano)


def test_specials_in_the_vocabulary_alone(onevision_copy):
    """Where they have entries they would be taken apart all the same."""
    (onevision_copy / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json is missing, which declares <|endoftext|>" in refusal(onevision_copy)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.update(added_tokens=content["added_tokens"][:-2]),
        lambda content: content.update(added_tokens=[]),
        lambda content: without(content["model"]["vocab"], range(20, 60)),
        lambda content: content["model"]["merges"].append(["a", "nothing"]),
        lambda content: content["model"]["vocab"].update({"many": 10**6}),
    ],
)
def test_the_format_of_transformers(hf, edit):
    change(hf / "tokenizer.json", edit)
    assert "tokenizer" in refusal(hf)


def test_the_file_of_transformers_cut(hf):
    file = hf / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-100])
    assert "tokenizer.json is not JSON" in refusal(hf)


def test_pieces_without_their_end(goldens_dir, tmp_path):
    """At half of its length the readers of transformers find 467 of the 1000 pieces, and say nothing."""
    folder = shutil.copytree(goldens_dir / "ckpt" / "llava-v1.5-tiny", tmp_path / "llama")
    file, whole = folder / "tokenizer.model", (folder / "tokenizer.model").read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 5):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"tokenizer\.model is truncated"):
            check_tokenizer_files(folder)
    file.write_bytes(whole[: len(whole) // 2])
    assert len(LlamaTokenizer.from_pretrained(folder)) < 1000
