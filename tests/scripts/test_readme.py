"""The README says what is there: its commands parse, its method table and its Python names are the code's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

import dycoke
from dycoke.cli import app
from dycoke.registry import available, entry

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("line", command_lines())
def test_shell_lines(line):
    assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    words = shlex.split(line)
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "dycoke":
        parse(words[1:])
    else:
        assert words[:2] == ["pip", "install"]


def parse(words: list[str]) -> None:
    """Parse a command line without running it; an unknown option or command raises."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("readme", words)


def test_parse_can_fail():
    with pytest.raises(KeyError):
        parse(["answer", "video.mp4"])
    with pytest.raises(type(typer.BadParameter("")).__mro__[1]):
        parse(["ask", "video.mp4", "?", "--frame-count", "3"])


def test_scripts_are_the_first_screen():
    lines = command_lines()[:2]
    assert lines == ["bash scripts/quickstart.sh", "bash scripts/test.sh"]


def test_method_table_is_the_registry():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", README, re.MULTILINE))
    assert sorted(rows) == available()
    for name, options in rows.items():
        said = dict(re.findall(r"`(\w+)` \(([^)]*)\)", options))
        assert said == {option: str(default) for option, (default, _) in entry(name).options.items()}


def test_python_blocks_compile_and_name_what_exists():
    code = blocks("python")
    assert code
    for block in code:
        compile(block, "README.md", "exec")
    for name in set(re.findall(r"\bdycoke\.(\w+)\(", "".join(code) + README)):
        assert name in dycoke.__all__


def test_linked_files_exist():
    for name in re.findall(r"`([\w./]+/)`", README):
        assert (ROOT / name).is_dir(), name


def test_benchmark_table_is_what_the_records_say():
    rows = re.findall(
        r"^\| (\d+) x (\d+) x (\d+) .*\| ([\d.]+) ms \| ([\d.]+) ms \| ([\d.]+) ms \|$", README, re.MULTILINE
    )
    records = {}
    for file in (ROOT / "results" / "bench").glob("compress_*.json"):
        record = json.loads(file.read_text())
        records[tuple(str(record["setting"][size]) for size in ("frames", "tokens", "dim"))] = record
    assert {tuple(row[:3]) for row in rows} == set(records) and rows
    for *sizes, torch_ms, triton_ms, floor_ms in rows:
        record = records[tuple(sizes)]
        medians = {row["version"]: row["median_ms"] for row in record["results"]}
        said = (float(torch_ms), float(triton_ms), float(floor_ms))
        assert said == tuple(round(value, 3) for value in (medians["torch"], medians["triton"], record["floor_ms"]))
        assert record["device"] == "NVIDIA H200" and record["commit"]
