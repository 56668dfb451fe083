"""Lay out the tokens of a single image, or of an image cut into tiles, with LLaVA-NeXT's newlines."""

import math
import re

import torch
from torch import Tensor
from torch.nn import functional

from llava.model.layout import Block, pack_image


def unpad_map(feature_map: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Crop the rows or columns of a map [D, H, W] that an image of (width, height) was padded with."""
    height, width = feature_map.shape[1:]
    image_width, image_height = image_size
    if image_width <= 0 or image_height <= 0:
        raise ValueError(f"image size {image_size}: expected a positive width and height")
    if image_width / image_height > width / height:
        rows = int(image_height * (width / image_width))
        edge = (height - rows) // 2
        return feature_map[:, edge : height - edge]
    cols = int(image_width * (height / image_height))
    edge = (width - cols) // 2
    return feature_map[:, :, edge : width - edge]


def shrink_map(feature_map: Tensor, side: int, tiles: int) -> Tensor:
    """Resize a map [D, H, W] bilinearly if it holds clearly more than `tiles` tiles of side * side tokens."""
    height, width = feature_map.shape[1:]
    times = math.sqrt(height * width / (tiles * side**2))
    if times <= 1.1:
        return feature_map
    size = (int(height // times), int(width // times))
    return functional.interpolate(feature_map[None], size, mode="bilinear")[0]


def pack_flat(features: Tensor) -> Block:
    """Lay out rows of tokens [n, P, D] one after the other, without newlines."""
    return pack_image(features.flatten(0, 1))


def pack_single(features: Tensor, newline: Tensor | None) -> Block:
    """Lay out an image given as one row of tokens [P, D], with a newline [D] behind it if there is one."""
    if newline is None:
        return pack_image(features)
    ends = torch.zeros(features.shape[0] + 1, dtype=torch.bool, device=features.device)
    ends[-1] = True
    return pack_image(torch.cat((features, newline[None].to(features))), ends)


def pack_tiles(
    features: Tensor,
    side: int,
    grid: tuple[int, int],
    image_size: tuple[int, int] | None,
    merge_type: str,
    aspect_ratio: str,
    newline: Tensor | None,
) -> Block:
    """Lay out an anyres image: the whole image first (unless "nobase"), then the map its tiles make.

    features [1 + tiles, side * side, D]; grid = (columns, rows) of tiles; image_size = (width, height), needed by
    "unpad", which crops the padding, honours "anyres_max_<n>" and ends every row of the map with the newline [D].
    "maxpool2x2" halves the map, any other spatial merge type takes it as it is.
    Raises ValueError if the number of tiles does not fill the grid, or if unpadding lacks what it needs.
    """
    cols, rows = grid
    if features.shape[0] - 1 != rows * cols:
        raise ValueError(f"{features.shape[0] - 1} image tiles do not fill the {cols} x {rows} grid of the config")
    dim = features.shape[-1]
    tiles = features[1:].view(rows, cols, side, side, dim)
    feature_map = tiles.permute(4, 0, 2, 1, 3).reshape(dim, rows * side, cols * side)
    ends = None
    if "unpad" in merge_type:
        if image_size is None or newline is None:
            lacking = "image_sizes" if image_size is None else "a model with image_newline"
            raise ValueError(f"mm_patch_merge_type {merge_type!r} needs {lacking} for a tiled image")
        feature_map = unpad_map(feature_map, image_size)
        limit = re.match(r"anyres_max_(\d+)", aspect_ratio)
        if limit:
            feature_map = shrink_map(feature_map, side, int(limit[1]))
        column = newline.to(feature_map)[:, None, None].expand(-1, feature_map.shape[1], 1)
        feature_map = torch.cat((feature_map, column), dim=-1)
        ends = torch.zeros(feature_map.shape[1:], dtype=torch.bool, device=features.device)
        ends[:, -1] = True
        ends = ends.flatten()
    elif "maxpool2x2" in merge_type:
        feature_map = functional.max_pool2d(feature_map, 2)
    tokens = feature_map.flatten(1).transpose(0, 1)
    if "nobase" in merge_type:
        return pack_image(tokens, ends)
    base = features[0]
    if ends is not None:
        ends = torch.cat((ends.new_zeros(base.shape[0]), ends))
    return pack_image(torch.cat((base, tokens)), ends)
