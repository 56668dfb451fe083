"""What the command cannot take ends in one line on stderr and exit code 2, with nothing attached."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from dycoke import cli
from tests.cli import files
from tests.llava import tiny


@pytest.fixture
def refused(dycoke, video, checkpoint):
    """The complaint of `dycoke ask` with one thing changed."""

    def complaint(*options, video=video, question="What is it?", model=checkpoint) -> str:
        return dycoke(
            "ask", video, question, "--model", model, "--frames", 8, "--max-new-tokens", 2, *options
        ).complaint

    return complaint


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


@pytest.fixture
def hf_copy(hf_checkpoint, tmp_path):
    return shutil.copytree(hf_checkpoint, tmp_path / "hf")


def test_missing_file(refused, tmp_path):
    assert "no such file" in refused(video=tmp_path / "absent.mp4")


def test_empty_file(refused, tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(video=tmp_path / "empty.mp4")


def test_folder(refused, tmp_path):
    assert "a folder; expected a video file" in refused(video=tmp_path)


@pytest.mark.parametrize("content", [b"no video at all " * 99, b"\x00" * 4096])
def test_no_video(refused, tmp_path, content):
    (tmp_path / "notes.mp4").write_bytes(content)
    assert "no video file" in refused(video=tmp_path / "notes.mp4")


def test_sound_only(refused, tmp_path):
    assert "no video in this" in refused(video=files.write_audio(tmp_path / "sound.mp4"))


# At .99 decord hands back frames of the mpeg4 file, fragments at .2 and .5 fewer frames, all without an error.
@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("flags", [None, "faststart", "frag_keyframe+empty_moov"])
def test_truncated(refused, tmp_path, share, flags):
    options = {"movflags": flags} if flags else {}
    path = files.write_cut(tmp_path / "cut.mp4", share, frames=60, options=options)
    assert "truncated mp4 file" in refused(video=path)


def test_damaged_inside(refused, tmp_path):
    path = files.write_video(tmp_path / "bad.mp4", frames=60, codec="libx264", options=files.FAST_START)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    assert "cannot be decoded" in refused(video=path)


@pytest.mark.parametrize("frames", [0, -3])
def test_no_frames(refused, frames):
    assert f"frames={frames}: expected an integer of at least 1" in refused("--frames", frames)


def test_frames_is_no_number(refused):
    assert "'--frames'" in refused("--frames", "many")


@pytest.mark.parametrize("question", ["", "  \n"])
def test_empty_question(refused, question):
    assert "the question is empty" in refused(question=question)


def test_placeholder_in_the_question(refused):
    assert "contains <image>" in refused(question="What is <image> here?")


def test_placeholder_of_transformers_in_the_question(refused, hf_checkpoint):
    assert "contains <video>" in refused(question="What is <video>?", model=hf_checkpoint)


def test_no_new_tokens(refused):
    assert "max_new_tokens=0" in refused("--max-new-tokens", 0)


def test_unknown_method(refused):
    line = refused("--method", "dycok")
    assert "'dycok'" in line and "dycoke" in line and "uniform_frames" in line


def test_unknown_option(refused):
    line = refused("--option", "kk=0.5")
    assert "'kk'" in line and "k, positions, variant" in line


def test_unknown_option_of_all_compared(refused):
    line = refused("--compare", "full,dycoke", "--option", "keep=0.5")
    assert "unknown option keep" in line and "full: no options" in line and "variant" in line


@pytest.mark.parametrize("k", [-0.1, 1.5, "nan"])
def test_k_out_of_range(refused, k):
    assert "expected a number in [0, 1]" in refused("--k", k)


def test_k_of_a_method_without_it(refused):
    line = refused("--method", "random_drop", "--k", 0.5)
    assert "random_drop has no option k" in line and "dycoke" in line


def test_k_twice(refused):
    assert "give one of them" in refused("--k", 0.5, "--option", "k=0.6")


@pytest.mark.parametrize("option", ["variant", "=3", "k=[1", "k=a"])
def test_option_that_cannot_be_read(refused, option):
    assert option.split("=")[0] in refused("--option", option)


def test_method_and_compare(refused):
    assert "give one of them" in refused("--method", "full", "--compare", "full,dycoke")


def test_compare_names_one_twice(refused):
    assert "named twice" in refused("--compare", "full,full")


def test_method_that_cannot_take_the_video(refused):
    line = refused("--option", "variant=official", "--frames", 3)
    assert "needs at least 5 frames, got 3" in line


@pytest.mark.parametrize("key", ["tokenizer_model_max_length", "max_position_embeddings"])
def test_prompt_longer_than_the_model_reads(refused, copy, key):
    tiny.edit_config(copy, **{key: 150})  # 8 frames of 16 tokens, a newline and the text
    assert "the prompt fills the 150 tokens" in refused("--method", "full", model=copy)


def test_prompt_that_a_method_makes_fit(dycoke, video, copy):
    tiny.edit_config(copy, tokenizer_model_max_length=150)
    done = dycoke("ask", video, "?", "--model", copy, "--frames", 8, "--k", 1, "--max-new-tokens", 2)
    assert done.code == 0, done.err


def test_prompt_longer_than_the_transformers_model_reads(refused, hf_copy):
    config = json.loads((hf_copy / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 80
    (hf_copy / "config.json").write_text(json.dumps(config))
    assert "the prompt fills the 80 tokens" in refused("--method", "full", model=hf_copy)


def test_device(refused):
    assert "expected one of auto, cpu, cuda" in refused("--device", "tpu")
    if not torch.cuda.is_available():
        assert "no usable GPU" in refused("--device", "cuda")


def test_dtype(refused):
    assert "float8" in refused("--dtype", "float8")


def test_model_folder_without_a_model(refused, tmp_path):
    assert "it has no config.json" in refused(model=tmp_path)


def test_model_that_is_a_file(refused, video):
    assert "expected a model folder" in refused(model=video)


def test_hub_repository_offline(refused):
    assert "is no local folder, and the hub" in refused(model="nobody/no-such-model")


def test_config_is_no_json(refused, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "no JSON object" in refused(model=tmp_path)


@pytest.mark.parametrize("architectures", [["MistralForCausalLM"], None, []])
def test_other_family(refused, tmp_path, architectures):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    line = refused(model=tmp_path)
    for name in ("LlavaQwenForCausalLM", "LlavaLlamaForCausalLM", "LlavaOnevisionForConditionalGeneration"):
        assert name in line


def test_missing_tensors(refused, copy):
    tiny.edit_tensors(copy, {"model.layers.1.mlp.up_proj.weight": None})
    line = refused(model=copy)
    assert "1 missing (model.layers.1.mlp.up_proj.weight)" in line


def test_truncated_weights(refused, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "truncated" in refused(model=copy)


def test_no_weights(refused, copy):
    (copy / "model.safetensors").unlink()
    assert "no weights in" in refused(model=copy)


@pytest.mark.parametrize(
    ("change", "complaint"), [(None, "1 missing tensors"), (torch.zeros(3, 5), "1 misshapen tensors")]
)
def test_tensors_of_the_transformers_format(refused, hf_copy, change, complaint):
    from safetensors.torch import load_file

    name = next(key for key in load_file(hf_copy / "model.safetensors") if key.endswith("mlp.up_proj.weight"))
    tiny.edit_tensors(hf_copy, {name: change})
    line = refused(model=hf_copy)
    assert complaint in line and "mlp.up_proj.weight" in line


def test_weights_of_the_transformers_format(refused, hf_copy):
    weights = hf_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "truncated" in refused(model=hf_copy)


def test_processor_without_a_template(refused, hf_copy):
    (hf_copy / "chat_template.jinja").unlink()
    assert "no chat template" in refused(model=hf_copy)


def test_usage_errors_are_one_line_too(dycoke):
    assert "question" in dycoke("ask", "video.mp4").complaint.lower()
    assert "--frame" in dycoke("ask", "video.mp4", "?", "--frame", 3).complaint
    assert "'asks'" in dycoke("asks").complaint


def test_a_bug_keeps_its_traceback(monkeypatch, video, checkpoint):
    import dycoke.ask.session as session

    def broken(*_):
        raise AttributeError("a bug")

    monkeypatch.setattr(session, "read_frames", broken)
    with pytest.raises(AttributeError, match="a bug"):
        cli.main(["ask", str(video), "?", "--model", str(checkpoint)])


def test_traceback_on_request(tmp_path):
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "ask", str(tmp_path / "absent.mp4"), "?"])
