"""Answers through the command, for both checkpoint formats."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

import dycoke.ask.session as session
from dycoke.families.chat import load_chat, placement
from dycoke.nano import SAMPLES_PATH
from dycoke.offline.answer import answer, check_length
from dycoke.registry import build
from dycoke.video.frames import read_frames
from dycoke.video.pixels import FrameSettings

SMALL = ("--frames", 8, "--max-new-tokens", 6)


@pytest.fixture(scope="module")
def chats(checkpoint, hf_checkpoint):
    where = placement("cpu", "float32")
    return {"llava": load_chat(str(checkpoint), where), "hf": load_chat(str(hf_checkpoint), where)}


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_answer_and_report(dycoke, video, checkpoint, hf_checkpoint, kind):
    model = {"llava": checkpoint, "hf": hf_checkpoint}[kind]
    done = dycoke("ask", video, "What is it?", "--model", model, "--k", 0.5, *SMALL)
    assert done.code == 0, done.err
    assert done.err == ""
    per_frame = {"llava": 16, "hf": 9}[kind]
    kept = 2 * per_frame + 6 * (per_frame // 2)  # two windows of four: one whole frame, three halved
    title, _, rows = done.out.partition("stage")
    assert "dycoke: 8 frames" in title
    assert rows.split("vision")[1].split()[0] == str(8 * per_frame)
    assert rows.split("compress")[1].split()[0] == str(kept)
    assert [word for word in ("vision", "compress", "prefill", "decode") if word in rows] == [
        "vision",
        "compress",
        "prefill",
        "decode",
    ]


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_compare_shows_both_from_one_model(dycoke, video, checkpoint, hf_checkpoint, kind, monkeypatch):
    loads = []
    monkeypatch.setattr(session, "load_chat", lambda *a: loads.append(a) or load_chat(*a))
    model = {"llava": checkpoint, "hf": hf_checkpoint}[kind]
    done = dycoke("ask", video, "What is it?", "--model", model, "--compare", "full,dycoke", "--k", 0.5, *SMALL)
    assert done.code == 0, done.err
    assert len(loads) == 1
    lines = {line[:20].strip(): line[20:].split() for line in done.out.splitlines() if line.strip()}
    per_frame = {"llava": 16, "hf": 9}[kind]
    assert lines["visual tokens"] == [str(8 * per_frame), str(2 * per_frame + 6 * (per_frame // 2))]
    assert lines["share kept"][0] == "100.0%"
    for row in ("prefill ms", "decode ms/token"):
        assert all(float(value) > 0 for value in lines[row])
    assert done.out.index("full") < done.out.index("dycoke")


def test_one_method_compared_with_itself(dycoke, video, checkpoint):
    """Each under what it was called, its options among it, whether they stand in one text or in several."""
    for ways in (
        ("--compare", "dycoke,k=.25", "--compare", "dycoke,k=.75", "--compare", "full"),
        ("--compare", "dycoke,k=.25,dycoke,k=.75,full"),
    ):
        done = dycoke("ask", video, "What is it?", "--model", checkpoint, *ways, "--l", 2, *SMALL)
        assert (done.code, done.err) == (0, "")
        lines = {line[:20].strip(): line[20:].split() for line in done.out.splitlines() if line.strip()}
        assert lines["visual tokens"] == [str(2 * 16 + 6 * 12), str(2 * 16 + 6 * 4), str(8 * 16)]
        assert re.search(r"dycoke,k=\.25 +dycoke,k=\.75 +full", done.out)


def test_a_plan_is_compared_with_methods_whatever_its_file_is_called(dycoke, video, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[bold]x.yaml").write_text("before: random_drop,keep=0.25\n")
    (tmp_path / "[").mkdir()
    (tmp_path / "[" / "b].yaml").write_text("before: random_drop,keep=0.5\n")
    ways = ("--compare", "[bold]x.yaml,full,pdrop,layers=[1,2]", "--compare", "[/b].yaml")
    done = dycoke("ask", video, "What is it?", "--model", checkpoint, *ways, *SMALL)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"\[bold\]x\.yaml +full +pdrop,layers=\[1,2\] +\[/b\]\.yaml", done.out)
    lines = {line[:20].strip(): line[20:].split() for line in done.out.splitlines() if line.strip()}
    assert lines["visual tokens"] == ["32", "128", "128", "64"]


def test_a_plan_that_is_not_there_is_told_without_torch():
    code = "import sys; from dycoke import cli; print(cli.main(sys.argv[1:]), 'torch' in sys.modules)"
    ways = ("--method", "absent.yaml"), ("--compare", "full,absent.yaml"), ("--method", "dycoke,k")
    for way, complaint in zip(
        ways, ["absent.yaml: No such", "absent.yaml: No such", "option 'k': expected"], strict=True
    ):
        command = [sys.executable, "-c", code, "ask", str(SAMPLES_PATH / "digits.mp4"), "?", *way]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.split() == ["2", "False"] and complaint in done.stderr


def test_options_in_the_text_of_a_method(dycoke, video, checkpoint):
    done = dycoke("ask", video, "What is it?", "--model", checkpoint, "--method", "dycoke,k=.75,l=2", *SMALL)
    assert (done.code, done.err) == (0, "")
    assert done.out.split("compress")[1].split()[0] == str(2 * 16 + 6 * 4)


@pytest.mark.parametrize("kind", ["llava", "hf"])
@pytest.mark.parametrize("method", ["dycoke", "dynamic_pruning"])
def test_pruning_is_told(dycoke, video, checkpoint, hf_checkpoint, kind, method):
    model = {"llava": checkpoint, "hf": hf_checkpoint}[kind]
    short = ("--k", 0.5, "--l", 2, "--p", 0.5) if method == "dycoke" else ("--option", "layer=2", "--option", "p=0.5")
    done = dycoke("ask", video, "What is it?", "--model", model, "--method", method, *short, *SMALL)
    assert (done.code, done.err) == (0, "")
    per_frame = {"llava": 16, "hf": 9}[kind]
    visual = 2 * per_frame + 6 * (per_frame // 2) if method == "dycoke" else 8 * per_frame
    read = {line.split()[-2]: float(line.split()[-1]) for line in done.out.splitlines() if "read a step" in line}
    assert read["0-1"] - read["2-3"] == visual - visual // 2
    prompt = int(done.out.split("prefill")[1].split()[0])
    steps = int(done.out.split("decode")[1].split()[0])
    assert read["0-1"] == prompt + (1 + steps) / 2  # a step reads its own token too
    assert f"times in {steps} decoded tokens" in done.out and "MiB on the device" in done.out


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_a_plan_in_a_file(dycoke, video, checkpoint, hf_checkpoint, kind, tmp_path):
    """One method's tokens before the language model, another's pruning while decoding."""
    (tmp_path / "plan.yaml").write_text("before: random_drop,keep=0.25\ndecode: {name: dycoke, l: 2, p: 0.5}\n")
    model = {"llava": checkpoint, "hf": hf_checkpoint}[kind]
    done = dycoke("ask", video, "What is it?", "--model", model, "--plan", tmp_path / "plan.yaml", *SMALL)
    assert (done.code, done.err) == (0, "")
    assert "plan: 8 frames" in done.out
    visual = 2 * {"llava": 16, "hf": 9}[kind]
    assert done.out.split("compress")[1].split()[0] == str(visual)
    read = {line.split()[-2]: float(line.split()[-1]) for line in done.out.splitlines() if "read a step" in line}
    assert read["0-1"] - read["2-3"] == visual - visual // 2


def test_short_options_go_to_the_compared_method_that_has_them(dycoke, video, checkpoint):
    shorts = ("--k", 1, "--l", 1, "--p", 0.25)
    done = dycoke("ask", video, "?", "--model", checkpoint, "--compare", "full,dycoke", *shorts, *SMALL)
    assert done.code == 0, done.err
    lines = {line[:20].strip(): line[20:].split() for line in done.out.splitlines() if line.strip()}
    below, above = (lines[f"read/step {which} L"] for which in ("below", "from"))
    assert below[0] == above[0] == "-"
    visual = int(lines["visual tokens"][1])
    assert visual == 2 * 16
    assert float(below[1]) - float(above[1]) == visual - int(visual * (1 - 0.25))


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_a_method_without_a_stage_before_is_checked_for_length_too(chats, video, kind, monkeypatch):
    """Before any token of the prompt is computed, as with `full`."""
    chat = chats[kind]
    request = chat.request(read_frames(video, 8), "?")
    tokens = chat.text_tokens(request) + 8 * chat.per_frame
    for context, fits in ((tokens + 1, True), (tokens, False)):
        monkeypatch.setattr(type(chat), "context", context)
        for method in (build("full"), build("dynamic_pruning"), build("dynamic_pruning").plan()):
            with nullcontext() if fits else pytest.raises(ValueError, match=f"fills the {context} tokens"):
                check_length(chat, method, request, 8)


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_pixels_made_on_the_device(dycoke, video, checkpoint, hf_checkpoint, chats, kind, monkeypatch):
    """The same request up to rounding, of which the command makes use where it is asked to."""
    exact, model = chats[kind], {"llava": checkpoint, "hf": hf_checkpoint}[kind]
    frames = read_frames(video, 8)
    pixels = {"llava": lambda request: request["images"][0], "hf": lambda request: request["pixel_values_videos"]}[kind]
    device = load_chat(str(model), placement("cpu", "float32"), "device")
    assert exact.on_device is None and device.on_device is not None
    given, made = exact.request(frames, "What is it?"), device.request(frames, "What is it?")
    assert list(given) == list(made)
    for name in ("inputs", "input_ids", "attention_mask"):
        assert name not in given or torch.equal(given[name], made[name])
    assert pixels(given).shape == pixels(made).shape
    assert (pixels(given) - pixels(made)).abs().max() < 2.01 * 2 / 255
    used = []
    call = FrameSettings.__call__
    monkeypatch.setattr(FrameSettings, "__call__", lambda *given: used.append(1) or call(*given))
    for route, count in (("auto", 0), ("exact", 0), ("device", 1)):
        done = dycoke("ask", video, "What is it?", "--model", model, "--preprocess", route, *SMALL)
        assert (done.code, done.err, len(used)) == (0, "", count)


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_pieces_come_while_generating(chats, video, kind):
    """Each piece must arrive before the model runs its last step, or nothing was streamed."""
    chat = chats[kind]
    steps, seen = [], []
    hook = chat.model.register_forward_hook(lambda *_: steps.append(1))
    request = chat.request(read_frames(video, 8), "What is it?")
    done = answer(chat, build("full"), request, 24, lambda text: seen.append((text, len(steps))))
    hook.remove()
    assert "".join(text for text, _ in seen).strip() == done.text != ""
    assert len(seen) > 1
    assert seen[0][1] < len(steps)


@pytest.mark.parametrize("name", ["[/b].mp4", "[bold]x.mp4"])
def test_any_path_of_a_video_is_read(dycoke, video, checkpoint, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = shutil.copy(video, tmp_path / name)
    assert dycoke("ask", path, "What is it?", "--model", checkpoint, *SMALL).code == 0


@pytest.mark.parametrize("model", [(), ("--model", "nano")])
def test_the_embedded_model_says_what_it_knows(dycoke, video, model):
    done = dycoke("ask", SAMPLES_PATH / "digits.mp4", "Describe the events in order.", *model, *SMALL)
    assert (done.code, done.err) == (0, "") and "answer cut: by --max-new-tokens" in done.out
    done = dycoke("ask", video, "What is it?", *model, *SMALL)
    assert done.code == 0 and len(done.err.splitlines()) == 1
    assert "knows drawn clips only" in done.err and "--model" in done.err


def test_a_method_inside_is_headlined_with_the_mean_over_the_layers(dycoke):
    ways = ("--method", "fastv", "--option", "k=1", "--option", "r=0.65")
    done = dycoke("ask", SAMPLES_PATH / "digits.mp4", "Describe the events in order.", *ways, *SMALL)
    kept = int(re.search(r"visual tokens from layer 1 on +(\d+)", done.out)[1])
    share = (128 + 7 * kept) / 8 / 128
    headline = f"fastv: 8 frames, {share:.1%} of the visual tokens read per layer on average (mean over 8 layers)"
    assert done.out.splitlines().count(headline) == 1 and share < 0.5


def test_warnings_of_ours_are_a_line(dycoke, video, checkpoint):
    done = dycoke("ask", video, "What is it?", "--model", checkpoint, "--option", "dp_cache=host", *SMALL)
    if not torch.cuda.is_available():
        assert done.err == "dycoke: dp_cache='host' needs CUDA: the cache stays on the device\n"


@pytest.mark.parametrize("ways", [(), ("--compare", "full,dycoke")])
def test_an_answer_does_not_steer_the_terminal(dycoke, video, checkpoint, monkeypatch, ways):
    said = "\x1b]0;owned\x07[/b]\x9b31m\ud800"

    def decode(self, ids, **_):
        return said[: 2 * len(ids)]

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.decode", decode)
    done = dycoke("ask", video, "What is it?", "--model", checkpoint, "--frames", 8, "--max-new-tokens", 12, *ways)
    assert done.code == 0, done.err
    assert r"\x1b]0;owned\x07[/b]\x9b31m\ud800" in done.out
    assert not set(done.out) & set("\x1b\x07\x9b")


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_answer_is_greedy_generate(chats, video, kind):
    chat = chats[kind]
    request = chat.request(read_frames(video, 8), "What is it?")
    ids = chat.model.generate(**request, max_new_tokens=12, do_sample=False)
    new = ids if kind == "llava" else ids[:, request["input_ids"].shape[1] :]
    expected = chat.tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip()
    assert answer(chat, build("full"), request, 12).text == expected


def test_llava_prompt_is_the_template_with_one_video(chats, video):
    chat = chats["llava"]
    request = chat.request(read_frames(video, 5), "What is it?")
    assert int((request["inputs"] == -200).sum()) == 1
    before, after = "".join(chat.tokenizer.decode(part) for part in _split(request["inputs"][0])).split("user\n")
    assert before == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>"
    assert after == "\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    assert request["images"][0].shape == (5, 3, 112, 112)


def test_ends_at_the_tokenizers_end_of_turn(chats, video, monkeypatch):
    """A generation config without an end must not make the answer run on."""
    chat = chats["llava"]
    monkeypatch.setattr(chat.model.generation_config, "eos_token_id", None)
    assert chat.request(read_frames(video, 2), "?")["eos_token_id"] == [chat.tokenizer.eos_token_id]


def test_progress_of_other_libraries_is_silent_and_comes_back(dycoke, video, checkpoint):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    done = dycoke("ask", video, "What is it?", "--model", checkpoint, *SMALL)
    assert (done.code, done.err) == (0, "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_dtype_reaches_the_model(checkpoint):
    chat = load_chat(str(checkpoint), placement("cpu", "bfloat16"))
    assert {p.dtype for p in chat.model.parameters()} == {torch.bfloat16}


SIZES = ["--repeat", "1", "--frames", "8", "--tokens", "16", "--dim", "64"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing,arguments",
    [("decord av lmms_eval", []), ("decord av lmms_eval yaml transformers", ["--methods", "none"])],
)
def test_methods_needs_no_model_library_of_videos(missing, arguments):
    """The GPU benchmark runs where decord and av are not installed."""
    code = (
        "import sys\n"
        f"for name in {missing.split()}:\n"
        "    sys.modules[name] = None\n"
        "from dycoke.cli import main\n"
        f"sys.exit(main(['bench', 'compress', *{SIZES}, *{arguments}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _split(ids):
    place = int((ids == -200).nonzero())
    return ids[:place], ids[place + 1 :]
