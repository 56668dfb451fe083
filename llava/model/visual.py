"""From images and videos to blocks of tokens: encode, pool, compress if something is attached, lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llava.anyres import get_anyres_image_grid_shape
from llava.model.layout import Block, pack_image, pack_video, pool_frames
from llava.model.tiles import pack_flat, pack_single, pack_tiles

if TYPE_CHECKING:
    from llava.model.llava_arch import LlavaMetaForCausalLM


def image_entries(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return one 4-D tensor [n, 3, S, S] for each image or video.

    images: a list of 3-D or 4-D tensors, a 5-D tensor, or a 4-D tensor of plain images [N, 3, S, S].
    Raises TypeError for anything else, ValueError for a tensor of another rank or without frames.
    """
    if not isinstance(images, Tensor | list | tuple):
        raise TypeError(f"images is a {type(images).__name__}; expected a tensor or a list of tensors")
    if isinstance(images, Tensor) and images.ndim not in (4, 5):
        raise ValueError(f"images has shape {tuple(images.shape)}; expected 4 or 5 dimensions")
    entries = []
    for number, entry in enumerate(images):
        if not isinstance(entry, Tensor):
            raise TypeError(f"images[{number}] is a {type(entry).__name__}; expected a tensor")
        if not entry.is_floating_point():
            raise TypeError(f"images[{number}] is {entry.dtype}; expected floats, as the image processor makes them")
        frames = entry[None] if entry.ndim == 3 else entry
        if frames.ndim != 4 or frames.shape[0] == 0:
            raise ValueError(f"images[{number}] has shape {tuple(entry.shape)}; expected [3, S, S] or [n, 3, S, S]")
        entries.append(frames)
    return entries


def build_blocks(
    model: LlavaMetaForCausalLM,
    entries: Sequence[Tensor],
    images: Tensor | Sequence[Tensor],
    modalities: Sequence[str] | str,
    image_sizes: Sequence[tuple[int, int]] | None,
    text_of: Mapping[int, Tensor],
) -> list[Block | None]:
    """Encode all entries in one tower call and lay each out; None for an entry no prompt uses.

    text_of maps the number of each used entry to the embedded text [Q, D] of its prompt. A 4-D `images` is a stack
    of plain images: no pooling, no newline. modalities beyond its end, or other than "video", mean image.
    """
    kinds = [modalities] if isinstance(modalities, str) else list(modalities)
    used = [number for number in range(len(entries)) if number in text_of]
    if not used:
        return [None] * len(entries)
    device = model.get_vision_tower().device
    plain = isinstance(images, Tensor) and images.ndim == 4
    blocks: list[Block | None] = [None] * len(entries)
    start = 0
    try:
        encoded = model.encode_images(torch.cat([entries[number].to(device) for number in used]))
        for number in used:
            rows = slice(start, start + entries[number].shape[0])
            start = rows.stop
            if plain:
                blocks[number] = pack_image(encoded[rows][0])
            elif number < len(kinds) and kinds[number] == "video":
                blocks[number] = video_block(model, encoded[rows], text_of[number], rows)
            else:
                size = image_sizes[number] if image_sizes is not None and number < len(image_sizes) else None
                blocks[number] = image_block(model, encoded[rows], size)
    finally:
        if model.video_seam is not None:
            model.video_seam.release()
    return blocks


def merge_type_of(model: LlavaMetaForCausalLM) -> str:
    """Return config.mm_patch_merge_type, "flat" if absent. Raises ValueError if it is neither flat nor spatial."""
    merge_type = getattr(model.config, "mm_patch_merge_type", "flat")
    if merge_type != "flat" and not merge_type.startswith("spatial"):
        raise ValueError(f"mm_patch_merge_type {merge_type!r}: expected 'flat' or a name starting with 'spatial'")
    return merge_type


def newline_layout(model: LlavaMetaForCausalLM) -> str:
    """Return the newline layout of videos; "no_token" if the merge type or the model has no newlines."""
    merge_type = merge_type_of(model)
    position = getattr(model.config, "mm_newline_position", "one_token")
    if merge_type == "flat" or model.get_model().image_newline is None:
        return "no_token"
    if position == "one_token" and "unpad" not in merge_type:
        return "no_token"
    return position


def pool_features(model: LlavaMetaForCausalLM, features: Tensor, stride: int = 2) -> tuple[Tensor, tuple[int, int]]:
    """Pool frames [T, P, D] as config.mm_spatial_pool_mode says; returns them with their (rows, cols).

    The pool stride of the config is not read: LLaVA-NeXT's own inference always halves the side.
    """
    mode = getattr(model.config, "mm_spatial_pool_mode", "average")
    return pool_frames(features, model.get_vision_tower().num_patches_per_side, mode, stride)


def video_block(model: LlavaMetaForCausalLM, features: Tensor, text: Tensor, rows: slice) -> Block:
    """Pool the features [T, P, D] of a video, let an attached seam choose among them, and lay them out.

    text [Q, D] of its prompt; rows of the tower call that its frames were.
    """
    frames, grid = pool_features(model, features)
    newline = newline_layout(model)
    if model.video_seam is None:
        embeds = frames.flatten(0, 1)
        index = torch.arange(embeds.shape[0], device=embeds.device)
    else:
        embeds, index = model.video_seam.video(frames, grid, newline, text, rows)
    return pack_video(embeds, index, frames.shape[0], grid, newline, model.get_model().image_newline)


def image_block(model: LlavaMetaForCausalLM, features: Tensor, size: tuple[int, int] | None) -> Block:
    """Lay out the features [n, P, D] of an image of (width, height): n = 1, or the whole image and its tiles."""
    merge_type = merge_type_of(model)
    if merge_type == "flat":
        return pack_flat(features)
    newline = model.get_model().image_newline
    if features.shape[0] == 1:
        return pack_single(features[0], newline if "unpad" in merge_type else None)
    aspect_ratio = getattr(model.config, "image_aspect_ratio", None) or "square"
    tower = model.get_vision_tower()
    grid = (2, 2)
    if aspect_ratio == "anyres" or "anyres_max" in aspect_ratio:
        if size is None:
            raise ValueError("an image in several tiles needs its (width, height) in image_sizes")
        grid = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, tower.image_size)
    return pack_tiles(features, tower.num_patches_per_side, grid, size, merge_type, aspect_ratio, newline)
