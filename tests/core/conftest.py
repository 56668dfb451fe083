"""Fixtures shared by the core tests."""

import pytest
import torch


@pytest.fixture
def planning(monkeypatch):
    """Replace a function the tilings come from. What was worked out before or meanwhile is forgotten."""
    from dycoke.ops.attend import sparse_decode_triton as kernels  # by tests that need it alone: it imports Triton

    def replace(name, function):
        monkeypatch.setattr(kernels, name, function)
        kernels._launch.cache_clear()

    yield replace
    monkeypatch.undo()
    kernels._launch.cache_clear()


@pytest.fixture
def poison_empty():
    """Fill torch.empty with NaN (or the largest integer): what a kernel leaves unwritten must not look right."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all() and torch.ones(1).new_empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
