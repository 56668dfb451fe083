"""Complete programs on the pages run, and claims that any machine can check hold."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.nano import SAMPLES_PATH
from tests.cli.files import write_hf_checkpoint
from tests.docs.pages import ROOT, all_blocks, blocks, prose

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
PYTHON, QUICK = "docs/guide/python.md", "docs/quickstart.md"
SAMPLES = json.loads((SAMPLES_PATH / "samples.json").read_text())


def right_answer(video: str, question: str) -> str:
    return next(each["answer"] for each in SAMPLES[video] if each["question"] == question)


def run(program: str, capsys) -> tuple[str, dict]:
    """What a program prints, and its names at the end."""
    known = {"__name__": "__main__"}
    exec(compile(program, "program", "exec"), known)
    return capsys.readouterr().out, known


def complete(page: str) -> list[str]:
    """Programs that bring all they need: the embedded model and its samples."""
    return [block for block in blocks("python", page) if block.startswith("import dycoke\n") and "dycoke.nano" in block]


def test_the_program_of_the_readme_answers(capsys):
    (program,) = complete("README.md")
    said, _ = run(program, capsys)
    assert said.splitlines()[0] == right_answer("digits.mp4", "Which digits are shown, in order?")
    assert "dycoke: 32 frames" in said and "KV cache" in said


@pytest.mark.slow
def test_the_program_of_the_guide_compares_as_the_quick_start_claims(capsys):
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    name, question, l = re.search(r'samples/(\w+\.mp4)" "(.*)".*\n.*--compare full,dycoke --l (\d)', script).groups()  # noqa: E741
    (program,) = complete(PYTHON)
    assert f'"{name}", 32), "{question}")' in program and f'build("full"), dycoke.build("dycoke", l={l})' in program
    said, known = run(program, capsys)
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["full", "dycoke"]
    full, short = (line.split(" ", 1)[1] for line in lines[::2])
    assert short == full and len(full.split()) > 20

    share, pruned, layers, read = re.search(
        r"stays the same with (\d+) % of its visual tokens, of which (\w+) of (\w+) layers read (\d+) % while",
        prose(QUICK),
    ).groups()
    assert lines[1].startswith("100% of the visual tokens") and lines[3].startswith(f"{share}% of the visual tokens")
    report = known["done"].report
    cache, visual = report.cache, report.stages["compress"].tokens
    assert f"{1 - (cache.read_below - cache.read_from) / visual:.0%}" == f"{read}%"
    words = {"three": 3, "eight": 8}
    assert (words[pruned], words[layers]) == (cache.layers - cache.first_layer, cache.layers)


@pytest.mark.slow
def test_the_program_of_many_videos_answers(capsys):
    (program,) = complete("docs/guide/many-videos.md")
    told = dict(re.findall(r'"(\w+\.mp4)": "([^"]+)"', program))
    expected = [f"{name} {right_answer(name, question)}" for name, question in told.items()]
    said, _ = run(program, capsys)
    assert said.splitlines() == expected


@pytest.mark.slow
def test_the_program_for_transformers_format_runs_on_a_tiny_checkpoint(tmp_path, capsys):
    """With a checkpoint, a video and a device that are here; the rest is as the page has it."""
    (program,) = (block for block in blocks("python", PYTHON) if "llava-hf/" in block)
    here = {
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": str(write_hf_checkpoint(tmp_path / "hf")),
        "video.mp4": str(SAMPLES_PATH / "digits.mp4"),
        '"cuda"': '"cpu"',
        "bfloat16": "float32",
        'build("dycoke")': 'build("dycoke", l=1)',  # its language model has few layers
        "max_new_tokens=128": "max_new_tokens=4",
    }
    for told, used in here.items():
        assert told in program
        program = program.replace(told, used)
    said, known = run(program, capsys)
    assert said.endswith("\n") and known["out"].shape[1] == known["inputs"]["input_ids"].shape[1] + 4
    report = known["run"].report
    assert report.frames == 32 and 0 < report.visual_kept < 1 and report.stages["decode"].tokens == 3


def test_no_complete_program_is_left_out():
    here = {"README.md", PYTHON, "docs/guide/many-videos.md"}
    assert {page for page, block in all_blocks("python") if "dycoke.nano" in block} == here


def test_the_block_about_bare_language_models_runs(capsys):
    (block,) = (block for block in blocks("python", PYTHON) if "visual=mask" in block)
    torch.manual_seed(0)
    lm = Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()
    mask = torch.zeros(1, 14, dtype=torch.bool)
    mask[:, 2:12] = True
    embeds = torch.randn(1, 14, SMALL["hidden_size"])
    known = {"dycoke": dycoke, "lm": lm, "mask": mask, "embeds": embeds, "attention_mask": torch.ones(1, 14).long()}
    exec(block, known)
    said, kept = capsys.readouterr().out.splitlines()
    assert "first_layer=3" in said
    kept = json.loads(kept)
    assert len([column for column in kept if 2 <= column < 12]) == int(10 * (1 - 0.7))
    assert {0, 1, 12, 13} < set(kept) <= set(range(15)) and kept == sorted(kept)
