"""A request's cache by itself, below the models: what it takes, holds and counts."""

from types import SimpleNamespace

import pytest
import torch

from dycoke.bases.state import adopted_state
from dycoke.kv_cache.device_store import nbytes, own
from dycoke.kv_cache.request import DecodeRequest

CPU = torch.device("cpu")


def normal(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))


class Told:
    """A decode policy that reads what it is told, one set a step."""

    first_layer = 1

    def __init__(self, *sets: list[int]) -> None:
        self.sets, self.width = iter(sets), len(sets[0])

    def budget(self, visual: int) -> int:
        return self.width

    def start(self, visual):
        return SimpleNamespace(keep=torch.full((len(visual), self.width), -1))

    def step(self, state, attn):
        state.keep.copy_(torch.tensor([next(self.sets)]))


@pytest.mark.parametrize("rows,tokens", [(1, 8), (2, 7)])
def test_a_prompt_of_another_size_than_announced(rows, tokens):
    request = DecodeRequest(None, 2, (2, 8), CPU, None, None)
    with pytest.raises(ValueError, match=rf"a prompt of {rows} rows and {tokens} tokens where 2 and 8 were announced"):
        request.fill(0, normal(rows, 2, tokens, 4), normal(rows, 2, tokens, 4))


def test_a_tail_doubles_when_it_is_full_and_its_bytes_are_counted():
    request = DecodeRequest(None, 2, (1, 8), CPU, None, None, tail=2)
    for layer in range(2):
        request.fill(layer, normal(1, 2, 8, 4), normal(1, 2, 8, 4))
    column, room, held = 2 * 2 * 4 * 4, [], []  # keys and values, two heads of 4, fp32
    for _ in range(6):
        request.advance()
        request.end_step()
        room.append(request.capacity)
        held.append(request.use.report().device_bytes)
    assert room == [2, 2, 4, 4, 8, 8]
    assert held == [2 * column * (8 + tail) for tail in room]


def test_the_first_column_is_fetched_like_any_other():
    visual = torch.arange(8)[None] < 7
    request = DecodeRequest(Told([0, 5], [2, 5], [0, 2]), 2, (1, 8), CPU, None, visual, host=True)
    for layer in range(2):
        request.fill(layer, normal(1, 2, 8, 4), normal(1, 2, 8, 4))
    for _ in range(3):
        request.advance()
        for layer in range(2):
            request.append(layer, normal(1, 2, 1, 4), normal(1, 2, 1, 4))
            request.attend(layer, normal(1, 2, 1, 4), 0.5)
        request.end_step()
    assert request.use.report().fetched_bytes == (2 + 1 + 1) * 2 * 2 * 4 * 4  # of one layer


def test_entries_are_kept_without_a_copy_unless_they_hold_more_than_themselves():
    whole = normal(1, 2, 8, 4)
    assert own(whole) is whole
    swapped = normal(1, 8, 2, 4).transpose(1, 2)  # as projections leave them
    assert own(swapped) is swapped
    part, apart = normal(1, 4, 8, 4)[:, :2], normal(1, 2, 4, 8).mT
    for entries in (part, apart):
        kept = own(entries)
        assert torch.equal(kept, entries) and kept.stride(-1) == 1
        assert kept.untyped_storage().nbytes() == nbytes(kept)


def test_two_names_of_one_tensor_stay_one():
    """Or a policy that writes through one of them reads the old numbers by the other."""

    class State:
        def __init__(self) -> None:
            self.keep = self.same = torch.tensor([[1, 2], [3, 4], [5, 6]])
            self.other = torch.tensor([7, 8, 9])

    state = State()
    before = state.keep
    adopted_state(state, 3).select(torch.tensor([2, 0, 0]))
    assert state.keep is state.same and state.keep is not before
    assert state.keep.tolist() == [[5, 6], [1, 2], [1, 2]] and state.other.tolist() == [9, 7, 7]
    assert before.tolist() == [[1, 2], [3, 4], [5, 6]]
