"""What the command cannot take ends in one line on stderr and exit code 2, with nothing attached."""

from __future__ import annotations

import pytest
import torch

from dycoke import cli
from tests.cli import files


def test_missing_file(refused, tmp_path):
    assert "no such file" in refused(video=tmp_path / "absent.mp4")


def test_what_would_steer_a_terminal_is_written_out(refused):
    name = "a\x1b]0;owned\x07\x9b31m\u202e\udcff.mp4"
    line = refused(video=name)
    assert line == r"dycoke: a\x1b]0;owned\x07\x9b31m\u202e\udcff.mp4: no such file"
    assert r"\x1b" in refused("--method", "\x1b[2J") and r"\x07" in refused("--option", "\x07")


@pytest.mark.parametrize("name", ["[/b]", "[bold]", "[/]", "[link=x]"])
def test_a_name_that_rich_could_take_for_markup(refused, name):
    assert f"{name} is not a local folder" in refused(model=name)


def test_empty_file(refused, tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(video=tmp_path / "empty.mp4")


def test_folder(refused, tmp_path):
    assert "no frames in this folder; expected a video file, or files .jpg" in refused(video=tmp_path)


@pytest.mark.parametrize("content", [b"no video at all " * 99, b"\x00" * 4096])
def test_no_video(refused, tmp_path, content):
    (tmp_path / "notes.mp4").write_bytes(content)
    assert "not a video file" in refused(video=tmp_path / "notes.mp4")


def test_sound_only(refused, tmp_path):
    assert "no video in this" in refused(video=files.write_audio(tmp_path / "sound.mp4"))


# At .99 decord hands back frames of the mpeg4 file, fragments at .2 and .5 fewer frames, all without an error.
@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("flags", [None, "faststart", "frag_keyframe+empty_moov"])
def test_truncated(refused, tmp_path, share, flags):
    options = {"movflags": flags} if flags else {}
    path = files.write_cut(tmp_path / "cut.mp4", share, frames=60, options=options)
    assert "truncated video file" in refused(video=path)


# decord reads what is left of such files and repeats it, without an error.
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name,codec", [("cut.mkv", "mpeg4"), ("cut.webm", "libvpx"), ("cut.avi", "mpeg4")])
def test_truncated_file_of_another_family(refused, tmp_path, name, codec, share):
    path = files.write_cut(tmp_path / name, share, frames=60, codec=codec)
    assert "truncated video file" in refused(video=path)


@pytest.mark.parametrize("video", ["", "https://example.org/video.mp4"])
def test_no_path(refused, video):
    assert "expected the path of a video file" in refused(video=video)


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


def test_unknown_way_to_make_pixels(refused):
    """Before the model is loaded."""
    line = refused("--preprocess", "gpu", model="nowhere")
    assert line == "dycoke: preprocess='gpu': expected one of auto, exact, device"


@pytest.mark.parametrize("which", ["llava", "hf"])
def test_a_processor_that_torch_cannot_stand_in_for(dycoke, refused, which, checkpoint, hf_checkpoint, tmp_path, video):
    import json
    import shutil

    folder = shutil.copytree(
        {"llava": checkpoint, "hf": hf_checkpoint}[which], tmp_path / f"{which}-llava-onevision-qwen2"
    )
    if which == "llava":
        looks = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 112, "width": 112}, "resample": 1}
        (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    else:
        content = json.loads((folder / "processor_config.json").read_text())
        content["video_processor"]["resample"] = 1
        (folder / "processor_config.json").write_text(json.dumps(content))
    line = refused("--preprocess", "device", model=folder)
    assert "cannot be reproduced on the device, for it has resample=" in line and "accepted: preprocess='exact'" in line
    done = dycoke("ask", video, "?", "--model", folder, "--frames", 4, "--max-new-tokens", 2, "--preprocess", "auto")
    assert (done.code, done.err) == (0, "")


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
    assert "'kk'" in line and "decode, dp_cache, k, l, p, positions" in line


def test_unknown_option_of_all_compared(refused):
    line = refused("--compare", "full,dycoke", "--option", "keep=0.5")
    assert "unknown option keep" in line and "full: no options" in line and "variant" in line


@pytest.mark.parametrize("k", [-0.1, 1.5, "nan"])
def test_k_out_of_range(refused, k):
    assert "expected a number in [0, 1]" in refused("--k", k)


@pytest.mark.parametrize("p", [-0.1, 1, "nan"])
def test_p_out_of_range(refused, p):
    assert "expected a number in [0, 1)" in refused("--p", p)


def test_l_without_an_observer(refused):
    assert "l=0: expected 1 to the model's last layer" in refused("--l", 0)


@pytest.mark.parametrize("which", ["llava", "hf"])
def test_l_beyond_the_models_layers(refused, checkpoint, hf_checkpoint, which):
    """The tiny models have four layers."""
    model = {"llava": checkpoint, "hf": hf_checkpoint}[which]
    assert "l=4: expected 1 to 3, because this model has 4 layers" in refused("--l", 4, model=model)


def test_l_is_no_integer(refused):
    assert "'--l'" in refused("--l", "2.5")


@pytest.mark.parametrize("short", ["k", "l", "p"])
def test_short_option_of_a_method_without_it(refused, short):
    line = refused("--method", "random_drop", f"--{short}", 1)
    assert f"random_drop has no option {short}; methods that have it: dycoke" in line


@pytest.mark.parametrize(("short", "value"), [("k", 0.5), ("l", 1), ("p", 0.5)])
def test_short_option_twice(refused, short, value):
    line = refused(f"--{short}", value, "--option", f"{short}={value}")
    assert f"--{short} and --option {short}={value}: give one of them" in line


def test_options_that_exclude_each_other(refused):
    line = refused("--option", "variant=official", "--option", "decode=off")
    assert "decode='off' with variant='official'" in line


@pytest.mark.parametrize("option", ["variant", "=3", "k=[1", "k=a"])
def test_option_that_cannot_be_read(refused, option):
    assert option.split("=")[0] in refused("--option", option)


def test_method_and_compare(refused):
    assert "give one of them" in refused("--method", "full", "--compare", "full,dycoke")


@pytest.mark.parametrize(
    "beside",
    [("--method", "full"), ("--compare", "full,dycoke"), ("--k", "0.5"), ("--l", "2"), ("--option", "keep=0.5")],
)
def test_plan_and_another_way(refused, tmp_path, beside):
    (tmp_path / "plan.yaml").write_text("before: full")
    line = refused("--plan", tmp_path / "plan.yaml", *beside)
    assert f"--plan {tmp_path / 'plan.yaml'} and {beside[0]}" in line
    assert ("give one of them" in line) == (beside[0] in ("--method", "--compare"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("before: fulll", "plan.yaml: before: unknown method 'fulll'"),
        ("before: [", "plan.yaml: not a value in YAML"),
        ("decode: {name: dycoke, l: x}", "plan.yaml: decode: l='x': expected an integer"),
        (None, "plan.yaml: No such file"),
    ],
)
def test_a_plan_that_cannot_be_read(refused, tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "plan.yaml").write_text(text)
    assert complaint in refused("--plan", tmp_path / "plan.yaml")


def test_compare_names_one_twice(refused):
    assert "named twice" in refused("--compare", "full,full")


def test_method_that_cannot_take_the_video(refused):
    line = refused("--option", "variant=official", "--frames", 3)
    assert "needs at least 5 frames, got 3" in line


def test_device(refused):
    assert "expected one of auto, cpu, cuda" in refused("--device", "tpu")
    if not torch.cuda.is_available():
        assert "no usable GPU" in refused("--device", "cuda")


def test_dtype(refused):
    assert "float8" in refused("--dtype", "float8")


def test_usage_errors_are_one_line_too(dycoke):
    assert "question" in dycoke("ask", "video.mp4").complaint.lower()
    assert "--frame" in dycoke("ask", "video.mp4", "?", "--frame", 3).complaint
    assert "'asks'" in dycoke("asks").complaint


def test_a_bug_keeps_its_traceback(monkeypatch, video, checkpoint):
    import dycoke.ask.session as session

    def broken(*_, **__):
        raise AttributeError("a bug")

    monkeypatch.setattr(session, "read_frames", broken)
    with pytest.raises(AttributeError, match="a bug"):
        cli.main(["ask", str(video), "?", "--model", str(checkpoint)])


def test_traceback_on_request(tmp_path):
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "ask", str(tmp_path / "absent.mp4"), "?"])
