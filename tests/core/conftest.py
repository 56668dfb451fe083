"""Fixtures shared by the core tests."""

import pytest


@pytest.fixture
def planning(monkeypatch):
    """Replace a function the plans come from. What was worked out before or meanwhile is forgotten."""
    from dycoke.ops import sparse_decode_triton as kernels  # by tests that need it alone: it imports Triton

    def replace(name, function):
        monkeypatch.setattr(kernels, name, function)
        kernels._launch.cache_clear()

    yield replace
    monkeypatch.undo()
    kernels._launch.cache_clear()
