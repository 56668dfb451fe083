"""The same weights in transformers' own LLaVA-OneVision give the same logits and answers."""

import pytest
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tests.llava import tiny

IMAGE_ID, VIDEO_ID = 380, 381
RENAMES = {
    "model.vision_tower.vision_tower.": "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}


def renamed(name: str) -> str:
    for ours, theirs in RENAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.fixture(scope="module")
def pair():
    """Our model and theirs, with the same random weights."""
    ours = tiny.make_model(tiny.onevision_config())
    text = ours.config.to_dict() | {"model_type": "qwen2"}
    vision = ours.get_vision_tower().config.to_dict() | {"model_type": "siglip_vision_model"}
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config={key: value for key, value in text.items() if not key.startswith("mm_") and key != "vision_config"},
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        image_grid_pinpoints=ours.config.image_grid_pinpoints,
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    theirs = LlavaOnevisionForConditionalGeneration(config).eval()
    theirs.load_state_dict({renamed(name): tensor for name, tensor in ours.state_dict().items()})
    return ours, theirs


def inputs(kind: str) -> tuple[dict, dict]:
    """The same request in both forms."""
    text = [11, 12], [13, 14, 15]
    if kind == "text":
        ids = torch.tensor([[*text[0], *text[1]]])
        return {"input_ids": ids}, {"input_ids": ids}
    ours = {"input_ids": torch.tensor([[*text[0], -200, *text[1]]])}
    if kind == "video":
        frames = tiny.frames(3)
        ids = torch.tensor([[*text[0], *[VIDEO_ID] * (3 * 16 + 1), *text[1]]])
        return ours | {"images": [frames], "modalities": ["video"]}, {
            "input_ids": ids,
            "pixel_values_videos": frames[None],
        }
    width, height = 200, 150  # two columns and two rows of tiles, padding above and below
    tiles = tiny.frames(5)
    ids = torch.tensor([[*text[0], *[IMAGE_ID] * (64 + 12 * 17), *text[1]]])
    return ours | {"images": [tiles], "image_sizes": [(width, height)]}, {
        "input_ids": ids,
        "pixel_values": tiles[None],
        "image_sizes": torch.tensor([[height, width]]),
    }


@pytest.mark.parametrize("kind", ["text", "video", "image"])
def test_logits(pair, kind):
    ours, theirs = pair
    own, other = inputs(kind)
    with torch.no_grad():
        first, second = ours(**own).logits, theirs(**other).logits
    assert first.shape == second.shape
    assert (first - second).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["video", "image"])
def test_answers(pair, kind):
    ours, theirs = pair
    own, other = inputs(kind)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 256}
    expected = theirs.generate(**other, **options)[:, other["input_ids"].shape[1] :]
    assert ours.generate(own.pop("input_ids"), **own, **options).tolist() == expected.tolist()
