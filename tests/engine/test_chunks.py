"""Pieces of a batch give what the whole gives, and none is larger than was asked for."""

import pytest
import torch

from dycoke.engine.prefill.rows import by_tokens


@pytest.mark.parametrize("most", [1, 3, 10, 11, 100])
def test_by_tokens(most):
    hidden, sizes = torch.randn(2, 5, 4), []

    def run(part):
        sizes.append(part.shape[0] * part.shape[1])
        return torch.cat([part.cumsum(2), part[..., :1] ** 2], dim=2)

    assert torch.equal(by_tokens(run, hidden, most), torch.cat([hidden.cumsum(2), hidden[..., :1] ** 2], dim=2))
    assert sum(sizes) == 10
    assert max(sizes) <= most
