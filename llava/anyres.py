"""Choosing and cutting tiles for images of any resolution. Sizes are (width, height) throughout."""

import ast
import math
import re
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

TILE_SIZES = (224, 336, 384, 448, 512)
Resolution = tuple[int, int]


def select_best_resolution(original_size: Resolution, possible_resolutions: Sequence[Resolution]) -> Resolution:
    """Return the resolution that keeps most of an image's pixels and, among those, wastes least; first wins ties."""
    width, height = original_size
    if width <= 0 or height <= 0:
        raise ValueError(f"image size {original_size}: expected a positive width and height")
    if not possible_resolutions:
        raise ValueError("no resolutions to choose from: image_grid_pinpoints is empty")

    def merit(resolution: Resolution) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - resolution[0] * resolution[1]

    return tuple(max(possible_resolutions, key=merit))


def parse_grid_pinpoints(grid_pinpoints: str | Sequence[Resolution], tile_size: int) -> list[Resolution]:
    """Return the resolutions a config lists, names as a literal, or spans as "(axb),...,(cxd)" in tiles.

    Raises ValueError on anything else, and for a span with a tile size that is not in TILE_SIZES.
    """
    if not isinstance(grid_pinpoints, str):
        return [tuple(pair) for pair in grid_pinpoints]
    corners = re.findall(r"\((\d+)x(\d+)\)", grid_pinpoints)
    if not corners:
        try:
            return [tuple(pair) for pair in ast.literal_eval(grid_pinpoints)]
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"image_grid_pinpoints {grid_pinpoints!r} is neither a list nor a span") from error
    if tile_size not in TILE_SIZES:
        raise ValueError(f"tile size {tile_size} for image_grid_pinpoints {grid_pinpoints!r}: expected {TILE_SIZES}")
    (first_col, first_row), (last_col, last_row) = (map(int, corners[end]) for end in (0, -1))
    return [
        (col * tile_size, row * tile_size)
        for col in range(first_col, last_col + 1)
        for row in range(first_row, last_row + 1)
    ]


def get_anyres_image_grid_shape(
    image_size: Resolution, grid_pinpoints: str | Sequence[Resolution], patch_size: int
) -> tuple[int, int]:
    """Return the (columns, rows) of tiles of side `patch_size` an image of (width, height) is cut into."""
    width, height = select_best_resolution(image_size, parse_grid_pinpoints(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def resize_and_pad_image(image: Image.Image, target: Resolution) -> Image.Image:
    """Fit an image into `target` without distortion, centred on black."""
    width, height = image.size
    scale_width, scale_height = target[0] / width, target[1] / height
    if scale_width < scale_height:
        fitted = (target[0], min(math.ceil(height * scale_width), target[1]))
    else:
        fitted = (min(math.ceil(width * scale_height), target[0]), target[1])
    canvas = Image.new("RGB", target, (0, 0, 0))
    canvas.paste(image.resize(fitted), ((target[0] - fitted[0]) // 2, (target[1] - fitted[1]) // 2))
    return canvas


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cut an image into square tiles, row by row."""
    width, height = image.size
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, height, patch_size)
        for left in range(0, width, patch_size)
    ]


def process_anyres_image(image: Image.Image, processor, grid_pinpoints: str | Sequence[Resolution]) -> Tensor:
    """Return the pixels [1 + tiles, 3, S, S] of an image: squeezed to a square, then its tiles row by row."""
    tile = processor.crop_size["height"]
    best = select_best_resolution(image.size, parse_grid_pinpoints(grid_pinpoints, tile))
    side = processor.size["shortest_edge"] or processor.size["height"]
    views = [image.resize((side, side)), *divide_to_patches(resize_and_pad_image(image, best), tile)]
    pixels = [processor.preprocess(view, return_tensors="pt")["pixel_values"][0] for view in views]
    return torch.stack(pixels)


def expand2square(image: Image.Image, background_color: tuple[int, ...]) -> Image.Image:
    """Centre an image on a square of its longer side; a square image comes back unchanged."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), background_color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
