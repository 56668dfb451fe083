"""The cosine between the attention of two steps: the kernel, the reference and float64 agree."""

import pytest
import torch

from dycoke.ops.attend.choose import turn, turn_torch
from dycoke.ops.attend.choose_triton import turn_triton
from tests.cases import folded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VERSIONS = {"torch": turn_torch, "triton": turn_triton, "dispatch": turn}


def steps(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    last, attn = torch.rand(2, rows, columns, generator=generator).softmax(-1)
    among = torch.rand(rows, columns, generator=generator) < 0.7
    return attn.to(DEVICE), among.to(DEVICE), (last * among.cpu()).to(DEVICE)


@pytest.mark.parametrize("version", VERSIONS)
@folded("columns", [1, 7, 300, 4096, 5001])
@folded("rows", [1, 3])
def test_cosine(version, columns, rows):
    attn, among, previous = steps(rows, columns)
    exact, before = attn.double() * among, previous.double().clone()
    want = (exact * before).sum(1) / (exact.norm(dim=1) * before.norm(dim=1)).clamp(min=1e-16)
    got = VERSIONS[version](attn, among, previous)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
    assert got.dtype == torch.float32 and torch.equal(previous, torch.where(among, attn, 0.0))


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_to_compare_with(version):
    attn, among, previous = steps(2, 50)
    assert VERSIONS[version](attn, among, torch.zeros_like(previous)).tolist() == [0.0, 0.0]
    assert VERSIONS[version](attn, torch.zeros_like(among), previous).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_step_twice(version):
    attn, among, previous = steps(2, 50)
    VERSIONS[version](attn, among, previous)
    torch.testing.assert_close(VERSIONS[version](attn, among, previous).cpu(), torch.ones(2))
