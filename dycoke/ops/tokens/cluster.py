"""Density peaks: clusters of tokens around those with dense neighbourhoods that are far from any denser one (DPC-kNN).

Groups of tokens are padded and clustered together, so that the number of kernels does not depend on the number of
groups. Source: Du, Ding and Jia, Study on density peaks clustering based on k-nearest neighbors, 2016, in the form
that PruneVid, HoliTom, FastVID and FlashVID share; they break ties by random noise, here they go to the lower index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dycoke.ops.tokens.rank import ranks

if TYPE_CHECKING:
    from torch import Tensor


def distances(tokens: Tensor) -> Tensor:
    """Euclidean distances in units of sqrt(D) within each group: [G, N, D] -> [G, N, N] fp32."""
    tokens = tokens.float()
    tokens = tokens - tokens.mean(dim=1, keepdim=True)  # distances stay, and the cancellation below shrinks
    squares = tokens.square().sum(-1)
    squared = torch.baddbmm(squares[:, :, None] + squares[:, None], tokens, tokens.transpose(1, 2), alpha=-2)
    squared.diagonal(dim1=1, dim2=2).zero_()
    return (squared.clamp_min_(0) / tokens.shape[2]).sqrt_()


def density_scores(distance: Tensor, valid: Tensor, neighbours: int, limit: Tensor | None = None) -> Tensor:
    """Score of every token as a centre: distance [G, N, N], valid [G, N] bool -> [G, N] fp32, -inf where not valid.

    Density is exp(-mean of the squared distances to the k nearest, the token itself among them), the score density
    times the distance to the nearest denser token; the densest of a group gets the group's largest distance. k is
    `neighbours`, or limit [G] where that is less; without a limit that is the number of valid tokens.
    """
    reach = (valid.sum(1) if limit is None else limit).clamp(1, neighbours)[:, None, None]
    apart = distance.masked_fill(~valid[:, None], torch.inf)
    near = apart.topk(min(neighbours, valid.shape[1]), dim=2, largest=False).values.square()
    rank = torch.arange(near.shape[2], device=near.device)
    density = torch.where(rank < reach, near, 0.0).sum(2).div(reach[:, 0]).neg().exp()

    mine, other = density[:, :, None], density[:, None]
    place = torch.arange(valid.shape[1], device=valid.device)
    denser = ((other > mine) | ((other == mine) & (place < place[:, None]))) & valid[:, None]
    widest = distance.masked_fill(~(valid[:, None] & valid[:, :, None]), 0.0).amax((1, 2))[:, None, None]
    separation = torch.where(denser, distance, widest).amin(2)
    return (density * separation).masked_fill(~valid, -torch.inf)


def dpc_knn(
    tokens: Tensor, valid: Tensor, counts: Tensor, neighbours: int, limit: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster the valid tokens of each group around counts[g] of them: tokens [G, N, D], valid [G, N], counts [G].

    Returns the centres [G, N] bool; for every token the index of its centre, [G, N] int64, which is its own for a
    centre and the nearest otherwise (meaningless in a group without centres); and every token's place by score,
    [G, N] int64. counts[g] is at most the number of valid tokens. k as in `density_scores`.
    """
    distance = distances(tokens)
    place = ranks(density_scores(distance, valid, neighbours, limit))
    centres = place < counts[:, None]
    nearest = distance.masked_fill(~centres[:, None], torch.inf).argmin(2)
    own = torch.arange(valid.shape[1], device=valid.device)
    return centres, torch.where(centres, own, nearest), place


def cluster_means(tokens: Tensor, assignment: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the members of each cluster, at the index of its centre: [G, N, D] fp32, and their number, [G, N] int64.

    tokens [G, N, D], assignment [G, N] int64 as `dpc_knn` gives it, members [G, N] bool: who counts. One product of
    matrices, for additions in no fixed order would not repeat exactly.
    """
    place = torch.arange(members.shape[1], device=members.device)[:, None]
    joins = (assignment[:, None] == place) & members[:, None]  # [G, centre, member]
    sizes = joins.sum(2)
    return joins.float() @ tokens.float() / sizes.clamp_min(1)[:, :, None], sizes
