"""The command as a function, and files for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dycoke import cli
from dycoke.attach import _runs
from tests.cli import files
from tests.llava import tiny


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def dycoke(capfd, monkeypatch):
    """Run `dycoke ARGUMENTS`; it may leave nothing attached to any model."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        before = set(_runs)  # a test before may have left a model that is still to be collected
        code = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert set(_runs) <= before
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    return files.write_video(tmp_path_factory.mktemp("videos") / "ok.mp4")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return tiny.make_onevision_checkpoint(tmp_path_factory.mktemp("models") / "llava-onevision-qwen2-tiny-ov")


@pytest.fixture(scope="session")
def hf_checkpoint(tmp_path_factory) -> Path:
    return files.write_hf_checkpoint(tmp_path_factory.mktemp("models") / "hf")


@pytest.fixture
def refused(dycoke, video, checkpoint):
    """The complaint of `dycoke ask` with one thing changed."""

    def complaint(*options, video=video, question="What is it?", model=checkpoint) -> str:
        return dycoke(
            "ask", video, question, "--model", model, "--frames", 8, "--max-new-tokens", 2, *options
        ).complaint

    return complaint
