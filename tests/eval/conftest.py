"""Every benchmark in miniature, made once, and a judge for the open answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.eval.judge import running_judge


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory) -> Path:
    """A folder to be named as HF_HOME, with all benchmarks in miniature; see `miniatures.environment`."""
    pytest.importorskip("datasets")
    pytest.importorskip("av")
    from tests.eval.miniatures import make

    home = tmp_path_factory.mktemp("home")
    make(home)
    return home


@pytest.fixture
def no_waiting(monkeypatch):
    """lmms-eval tries five times to load a data set, and waits for seconds in between."""
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture(scope="module")
def judge():
    """A running judge of open answers."""
    with running_judge() as running:
        yield running
