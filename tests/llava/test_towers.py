"""Which features the towers give, and which towers and projectors cannot be built."""

import json

import pytest
import torch

from llava.model import LlavaLlamaForCausalLM, LlavaQwenForCausalLM
from tests.llava import tiny


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mm_projector_type": "pooler"}, "mm_projector_type 'pooler'"),
        ({"mm_projector_type": "mlp2x_res2x_gelu"}, "mm_projector_type 'mlp2x_res2x_gelu'"),
        ({"mm_vision_tower": "eva", "vision_config": None}, "expected a SigLIP or CLIP tower"),
        ({"mm_vision_tower": "me/siglip-unheard-of", "vision_config": None}, "give it as vision_config"),
    ],
)
def test_parts_that_cannot_be_built(overrides, message):
    with pytest.raises(ValueError, match=message):
        LlavaQwenForCausalLM(tiny.onevision_config(**overrides))


@pytest.mark.parametrize(("select_layer", "depth"), [(-2, 3), (-1, 4), (2, 2), (-5, 0)])
@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
def test_clip_features(select_layer, depth, feature):
    config = tiny.llama_config(mm_vision_select_layer=select_layer, mm_vision_select_feature=feature)
    tower = tiny.make_model(config).get_vision_tower()
    pixels = tiny.frames(2)
    with torch.no_grad():
        states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
        expected = states[depth][:, 1:] if feature == "patch" else states[depth]
        assert torch.allclose(tower(pixels), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"mm_vision_select_layer": -6}, "hidden states 0 to 4"), ({"mm_vision_select_feature": "slice"}, "'slice'")],
)
def test_clip_features_that_are_not_there(overrides, message):
    with pytest.raises(ValueError, match=message):
        LlavaLlamaForCausalLM(tiny.llama_config(**overrides))


def test_siglip_features():
    tower = tiny.make_model(tiny.onevision_config()).get_vision_tower()
    assert len(tower.vision_tower.encoder.layers) == 3  # of the four its config counts
    with torch.no_grad():
        states = tower.vision_tower(tiny.frames(2), output_hidden_states=True).hidden_states
        assert torch.allclose(tower(tiny.frames(2)), states[-1], atol=1e-6)


@pytest.mark.parametrize("name", ["my_vit", "clip_of_the_lab"])
@pytest.mark.parametrize("kind", ["siglip", "siglip_vision_model"])
def test_the_family_of_a_folder_is_what_its_own_config_says(tmp_path, name, kind):
    folder = tmp_path / "clips" / name
    folder.mkdir(parents=True)
    shape = tiny.vision_config("siglip")
    content = {**shape, "model_type": kind} if "vision" in kind else {"model_type": kind, "vision_config": shape}
    (folder / "config.json").write_text(json.dumps(content))
    config = tiny.onevision_config(mm_vision_tower=str(folder), vision_config=None)
    assert LlavaQwenForCausalLM(config).get_vision_tower().family == "siglip"
    (folder / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ValueError, match=r"whose config\.json says 'dinov2': expected a SigLIP or CLIP tower"):
        LlavaQwenForCausalLM(config)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        LlavaQwenForCausalLM(config)
