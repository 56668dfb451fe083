"""Every benchmark in miniature, made once, and a judge for the open answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.eval.judge import running_judge

# What runs lmms-eval in the process of the tests: its imports alone take as long as many of the fast tests together.
WITH_LMMS_EVAL = [Path(__file__).parent / name for name in ("models", "test_nanovideo.py")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path in WITH_LMMS_EVAL and config.getoption("markexpr") == "not slow" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not set(WITH_LMMS_EVAL).isdisjoint([item.path, *item.path.parents]):
            item.add_marker(pytest.mark.slow)


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
