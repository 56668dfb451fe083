"""The likeliest token and the end of answers: the reference by hand, the kernels against it."""

import pytest
import torch

from dycoke.ops.layer.greedy import greedy_tokens, greedy_tokens_torch
from dycoke.ops.layer.greedy_triton import greedy_tokens_triton
from tests.cases import folded
from tests.support.decode_stores import DEVICE, needs_gpu, poisoned

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
PAD = 3
BOTH = pytest.mark.parametrize("function", [greedy_tokens_torch, greedy_tokens_triton])


def case(rows, vocabulary, dtype=torch.float32, *, seed=0):
    """Logits within wider ones, no row ended, and where the ids go: a column of a wider record."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary + 8, generator=random).to(DEVICE, dtype)[:, :-8]
    ended = torch.zeros(rows, dtype=torch.bool, device=DEVICE)
    return logits, ended, torch.full((rows, 4), -1, device=DEVICE)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@folded(("rows", "vocabulary"), [(1, 1), (1, 5000), (3, 2048), (5, 2049), (64, 300), (2, 152064)])
def test_kernels_equal_the_reference(rows, vocabulary, dtype):
    logits, ended, record = case(rows, vocabulary, dtype)
    ends = logits.argmax(1)[:: max(1, rows // 2)].clone()
    ended[rows // 2 + 1 :: 2] = True
    mine, other = ended.clone(), record.clone()
    with poisoned():
        ours = greedy_tokens_triton(logits, mine, ends, PAD, other[:, 2])
    want = greedy_tokens_torch(logits, ended, ends, PAD, record[:, 2])
    assert torch.equal(ours, want) and torch.equal(mine, ended) and torch.equal(other, record)
    assert ended.any() and (ended.sum() < rows or rows < 5)
    assert (record[:, [0, 1, 3]] == -1).all() and torch.equal(record[:, 2], want)


@BOTH
def test_a_row_that_has_ended_stays_so(function):
    """The ids of an answer: its end is told once, and behind it stands the pad id, which may be an end itself."""
    logits, ended, record = case(4, 40)
    logits = torch.full_like(logits, -1.0)
    ends = torch.tensor([7, 11], device=DEVICE)
    for step, likeliest in enumerate(([5, 7, 11, 6], [7, 2, 3, 6], [9, 9, 9, 8])):
        now = logits.scatter(1, torch.tensor(likeliest, device=DEVICE)[:, None], 1.0)
        function(now, ended, ends, PAD, record[:, step])
    assert record[:, :3].tolist() == [[5, 7, PAD], [7, PAD, PAD], [11, PAD, PAD], [6, 6, 8]]
    assert ended.tolist() == [True, True, True, False]


@BOTH
def test_no_end(function):
    logits, ended, record = case(3, 40)
    ended[:] = True
    chosen = function(logits, ended, None, PAD, record[:, 0])
    assert torch.equal(chosen, logits.argmax(1)) and torch.equal(chosen, record[:, 0]) and ended.all()
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert (function(logits, ended, none, PAD, record[:, 0]) == PAD).all() and ended.all()


@BOTH
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ties_and_what_is_no_number(function, dtype):
    logits, ended, record = case(8, 5000, dtype)
    inf, nan = float("inf"), float("nan")
    logits[0] = 2.0
    logits[1, 4000], logits[1, 4999] = 9.0, 9.0
    logits[2] = -inf
    logits[3, 4321], logits[3, 17] = nan, inf
    logits[4, 40], logits[4, 30] = -nan, nan
    logits[5] = -3.0
    logits[5, 2100], logits[5, 2200] = -0.0, 0.0
    logits[6] = -inf
    logits[6, 77] = torch.finfo(dtype).min
    logits[7] = -inf
    logits[7, 4999] = 0.0
    chosen = function(logits, ended, None, PAD, record[:, 0])
    assert chosen.tolist() == [0, 4000, 0, 4321, 30, 2100, 77, 4999]


def test_any_strides():
    logits, ended, _ = case(4, 40)
    logits[:, :4] += 9 * torch.eye(4, device=DEVICE)
    wide, ends = torch.stack([ended, ended], dim=1), logits.argmax(1)[[0, 0, 2, 2]]
    record = torch.full((4, 3), -1, device=DEVICE)
    chosen = greedy_tokens(logits.T.contiguous().T, wide[:, 1], ends[::2], PAD, record[:, 1])
    assert torch.equal(chosen, logits.argmax(1)) and torch.equal(record[:, 1], chosen)
    assert wide[:, 1].tolist() == [True, False, True, False] and not wide[:, 0].any()


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        (0, torch.zeros(2), r"logits: expected \[B, V\] with V > 0, got shape \(2,\)"),
        (0, torch.zeros(2, 0), r"logits: expected \[B, V\] with V > 0, got shape \(2, 0\)"),
        (1, torch.zeros(3, dtype=torch.bool), r"ended: expected \[2\] torch.bool, got \(3,\)"),
        (1, torch.zeros(2), "ended: .* torch.float32"),
        (2, torch.zeros(1, 1, dtype=torch.int64), r"ends: expected \[E\] torch.int64, got \(1, 1\)"),
        (2, torch.zeros(1), "ends: .* torch.float32"),
        (4, torch.zeros(2, 1, dtype=torch.int64), r"record: expected \[2\] torch.int64, got \(2, 1\)"),
    ],
)
def test_what_does_not_fit(place, given, message):
    whole = [torch.zeros(2, 5), torch.zeros(2, dtype=torch.bool), torch.tensor([1]), PAD, torch.zeros(2).long()]
    whole[place] = given
    for function in (greedy_tokens, greedy_tokens_torch, greedy_tokens_triton):
        with pytest.raises(ValueError, match=message):
            function(*whole)


@needs_gpu
@pytest.mark.parametrize("rows", [1, 7, 64, 300])
def test_a_whole_vocabulary(rows):
    """Many ties: half precision knows few numbers."""
    logits, ended, record = case(rows, 152064, torch.bfloat16)
    assert torch.equal(greedy_tokens(logits, ended, None, PAD, record[:, 0]), logits.argmax(1))
