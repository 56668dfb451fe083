"""A small video for the tests that ask what is done with it, not what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import files


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """Twelve frames of 64 x 64; frame i has the brightness 10 * i."""
    return files.write_video(tmp_path_factory.mktemp("videos") / "ok.mp4")
