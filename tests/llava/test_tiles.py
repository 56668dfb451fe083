"""How many tokens an image of any size becomes, and where they stand."""

import pytest
import torch

from llava.anyres import get_anyres_image_grid_shape
from llava.model.tiles import pack_flat, pack_single, pack_tiles, shrink_map
from tests.llava.golden_inputs import GRIDS

# (width, height): tokens of LLaVA-OneVision (SigLIP, 27 x 27 tokens a tile, anyres_max_9)
ONEVISION = {
    (384, 384): 1485,
    (640, 480): 2929,
    (300, 700): 2025,
    (1024, 899): 6551,
    (1920, 1080): 7269,
    (3840, 2160): 7317,
    (2304, 2304): 7371,
    (4000, 400): 3500,
}
# tokens of LLaVA-1.6 with Vicuna (CLIP, 24 x 24 tokens a tile, anyres)
VICUNA = {(384, 384): 2928, (640, 480): 2340, (300, 700): 1976, (1920, 1080): 1948, (4000, 400): 1160}


def tokens(size, grid_name: str, tile: int, side: int, aspect_ratio: str):
    grid = get_anyres_image_grid_shape(size, GRIDS[grid_name], tile)
    features = torch.zeros(1 + grid[0] * grid[1], side * side, 1)
    return pack_tiles(features, side, grid, size, "spatial_unpad", aspect_ratio, torch.ones(1))


@pytest.mark.parametrize("size", ONEVISION)
def test_onevision_counts(size):
    assert tokens(size, "ov", 384, 27, "anyres_max_9").full_length == ONEVISION[size]


@pytest.mark.parametrize("size", VICUNA)
def test_vicuna_counts(size):
    assert tokens(size, "v16", 336, 24, "anyres").full_length == VICUNA[size]


def test_counts_with_a_lower_limit():
    assert tokens((1500, 900), "ov", 384, 27, "anyres_max_2").full_length == 27 * 27 + 29 * (49 + 1)


def test_newlines_end_the_rows_and_are_not_visual():
    block = tokens((1024, 899), "ov", 384, 27, "anyres_max_9")
    newlines = torch.zeros(71, 82, dtype=torch.bool)
    newlines[:, -1] = True
    expected = torch.cat((torch.zeros(729, dtype=torch.bool), newlines.flatten()))
    assert torch.equal(block.visual, ~expected)
    assert torch.equal(block.tokens[:, 0] == 1, expected)
    assert torch.equal(block.slots, torch.arange(729 + 71 * 82))


@pytest.mark.parametrize(("shape", "expected"), [((2, 5), (2, 5)), ((3, 4), (2, 3)), ((3, 3), (3, 3))])
def test_maps_are_shrunk_only_when_clearly_too_large(shape, expected):
    """For one tile of 3 x 3 tokens: 10 tokens are within a factor of 1.1 a side, 12 are not."""
    assert shrink_map(torch.zeros(1, *shape), 3, 1).shape[1:] == expected


def test_tiles_make_one_map():
    """Two columns of tiles with 2 x 2 tokens each; tokens are numbered tile by tile."""
    features = torch.arange(12.0).view(3, 4, 1)
    block = pack_tiles(features, 2, (2, 1), None, "spatial", "square", None)
    assert block.tokens[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert block.visual.all()
    pooled = pack_tiles(features, 2, (2, 1), None, "spatial_maxpool2x2_nobase", "square", None)
    assert pooled.tokens[:, 0].tolist() == [7, 11]


def test_single_images():
    features = torch.arange(4.0)[:, None]
    assert pack_single(features, None).tokens is features
    block = pack_single(features, torch.full((1,), -1.0))
    assert block.tokens[:, 0].tolist() == [0, 1, 2, 3, -1]
    assert block.visual.tolist() == [True] * 4 + [False]
    assert pack_flat(features.view(2, 2, 1)).tokens[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("size", "newline", "grid", "message"),
    [
        ((10, 10), torch.ones(1), (2, 2), "2 image tiles do not fill the 2 x 2 grid"),
        (None, torch.ones(1), (2, 1), "needs image_sizes"),
        ((10, 10), None, (2, 1), "needs a model with image_newline"),
        ((0, 10), torch.ones(1), (2, 1), "image size"),
    ],
)
def test_tiles_that_do_not_fit(size, newline, grid, message):
    with pytest.raises(ValueError, match=message):
        pack_tiles(torch.zeros(3, 4, 1), 2, grid, size, "spatial_unpad", "anyres", newline)
