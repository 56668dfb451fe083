"""Prompts to token ids, images to pixels, and when to stop."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria

from llava.anyres import (
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    process_anyres_image,
    resize_and_pad_image,
    select_best_resolution,
)
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

__all__ = [
    "KeywordsStoppingCriteria",
    "check_image_tokens",
    "divide_to_patches",
    "expand2square",
    "get_anyres_image_grid_shape",
    "get_model_name_from_path",
    "process_anyres_image",
    "process_images",
    "resize_and_pad_image",
    "select_best_resolution",
    "tokenizer_image_token",
]


def tokenizer_image_token(
    prompt: str,
    tokenizer: Any,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
) -> list[int] | Tensor:
    """Tokenise the text around each "<image>" on its own and put `image_token_index` between the pieces.

    A BOS the tokenizer adds is kept once, at the start. Returns a list, or with "pt" an int64 tensor [L].
    Raises ValueError on another return_tensors.
    """
    chunks = [tokenizer(chunk).input_ids for chunk in prompt.split(DEFAULT_IMAGE_TOKEN)]
    bos = tokenizer.bos_token_id
    skip = 1 if chunks[0] and bos is not None and chunks[0][0] == bos else 0
    ids = list(chunks[0])
    for chunk in chunks[1:]:
        ids += [image_token_index, *chunk[skip:]]
    if return_tensors is None:
        return ids
    if return_tensors == "pt":
        return torch.tensor(ids, dtype=torch.long)
    raise ValueError(f"return_tensors {return_tensors!r}: expected None or 'pt'")


def check_image_tokens(input_ids: Tensor, n_images: int) -> None:
    """Raise ValueError unless the prompts [B, L] have exactly one placeholder for each of n_images."""
    found = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if found != n_images:
        count = f"{n_images} image or video" if n_images == 1 else f"{n_images} images or videos"
        remedy = "write <image> once for each, or pass strict=False" if n_images else "there are no images"
        raise ValueError(f"prompt has {found} <image> tokens for {count}; {remedy}")


def has_one_each(input_ids: Tensor, n_images: int) -> bool:
    """Whether prompts [B, L] have as many placeholders as there are images and videos.

    Raises ValueError if they have not, and one of the prompts has none at all: what is shown with it would go unseen.
    """
    placeholders = input_ids == IMAGE_TOKEN_INDEX
    if int(placeholders.sum()) == n_images:
        return True
    if n_images and placeholders.ndim == 2 and not bool(placeholders.any(1).all()):
        check_image_tokens(input_ids, n_images)
    return False


def process_images(images: Sequence[Image.Image], image_processor: Any, model_cfg: Any) -> Tensor | list[Tensor]:
    """Turn PIL images into pixels as model_cfg.image_aspect_ratio says.

    "anyres" and "anyres_max_<n>" give [tiles, 3, S, S] an image, "pad" pads to a square with the mean colour,
    anything else leaves the shape to the processor. Equal shapes are stacked, others returned as a list.
    """
    aspect_ratio = getattr(model_cfg, "image_aspect_ratio", None) or "square"
    if aspect_ratio == "anyres" or "anyres_max" in aspect_ratio:
        pixels = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in images]
    elif aspect_ratio == "pad":
        mean = tuple(int(255 * channel) for channel in image_processor.image_mean)
        squares = [expand2square(image, mean) for image in images]
        pixels = [image_processor.preprocess(image, return_tensors="pt")["pixel_values"][0] for image in squares]
    else:
        return image_processor.preprocess(list(images), return_tensors="pt")["pixel_values"]
    if all(entry.shape == pixels[0].shape for entry in pixels):
        return torch.stack(pixels)
    return pixels


def get_model_name_from_path(model_path: str) -> str:
    """Return the last component of a path, with its parent's in front if it is a "checkpoint-..."."""
    parts = model_path.strip("/").split("/")
    if parts[-1].startswith("checkpoint-") and len(parts) > 1:
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1]


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops a row when a keyword appears in its text, however it is tokenised there."""

    any_device = True  # takes ids wherever they are

    def __init__(self, keywords: Sequence[str], tokenizer: Any, input_ids: Tensor):
        """keywords: strings to stop at, empty ones left out; input_ids [B, L] are accepted for callers, not needed."""
        self.keywords = [keyword for keyword in keywords if keyword]
        self.tokenizer = tokenizer
        # A token is at least one byte; one more is decoded because some tokenizers drop a space at the start.
        self.window = max((len(keyword.encode()) for keyword in self.keywords), default=0) + 1

    def __call__(self, output_ids: Tensor, scores: Any = None, **kwargs: Any) -> Tensor:
        """Return bool [B] for the generated ids [B, n] (the prompt is not part of them)."""
        texts = self.tokenizer.batch_decode(output_ids[:, -self.window :])
        stops = [any(keyword in text for keyword in self.keywords) for text in texts]
        return torch.tensor(stops, dtype=torch.bool, device=output_ids.device)
