"""The vision tower of a LLaVA model: an image encoder cut off after the layer whose output is used."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, PretrainedConfig, SiglipVisionModel

from llava.model.checkpoint import load_tower_weights, tower_folder
from llava.model.multimodal_encoder.processors import build_image_processor
from llava.model.multimodal_encoder.vision_config import tower_config


class VisionTower(nn.Module):
    """Shared behaviour of the towers; a subclass says which layers and tokens are used.

    With `delay_load` the encoder is absent until load_model() reads it from the folder named by mm_vision_tower.
    """

    family: str
    model_class: type[nn.Module]

    def __init__(self, config: PretrainedConfig, delay_load: bool = False):
        super().__init__()
        self.vision_tower_name = config.mm_vision_tower
        self.select_layer = getattr(config, "mm_vision_select_layer", -2)
        self.select_feature = getattr(config, "mm_vision_select_feature", "patch")
        self.config = self.adapt_config(tower_config(config))
        self._check_selection()
        self.image_processor = build_image_processor(self.family, self.config, self.vision_tower_name)
        self.vision_tower = None if delay_load else self.model_class(self.config)

    def adapt_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Return the config of the encoder that is kept, given the tower's own."""
        return config

    def _check_selection(self) -> None:
        """Raise ValueError if the config selects features this tower does not give."""

    @property
    def depth(self) -> int:
        """Number of encoder layers that are run."""
        raise NotImplementedError

    def embed(self, pixels: Tensor) -> Tensor:
        """Turn pixels into the input of the first encoder layer."""
        return self.vision_tower.embeddings(pixels)

    def encode(self, hidden: Tensor) -> Tensor:
        """Run the layers that are used on the input [N, S, C] of the first."""
        for layer in self.vision_tower.encoder.layers[: self.depth]:
            hidden = layer(hidden, None)
        return hidden

    def select(self, hidden: Tensor) -> Tensor:
        """Keep the tokens that go on to the projector."""
        return hidden

    @property
    def is_loaded(self) -> bool:
        return self.vision_tower is not None

    def load_model(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        """Read the encoder from the local folder (or hub cache) named by mm_vision_tower; no-op when loaded.

        Raises FileNotFoundError if it is not on this machine, ValueError if tensors are missing or misshapen.
        """
        if self.is_loaded:
            return
        folder = tower_folder(self.vision_tower_name)
        encoder = self.model_class(self.config)
        load_tower_weights(encoder, folder)
        self.vision_tower = encoder.to(device=device, dtype=dtype).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images [N, 3, S, S] to features [N, P, C] in the dtype of the input.

        Raises ValueError if S is not image_size.
        """
        side = self.image_size
        if pixels.shape[1:] != (3, side, side):
            raise ValueError(f"images of shape {tuple(pixels.shape)}: expected [N, 3, {side}, {side}]")
        hidden = self.encode(self.embed(pixels.to(device=self.device, dtype=self.dtype)))
        return self.select(hidden).to(pixels.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vision_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.vision_tower.parameters()).device

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        return self.num_patches_per_side**2


class SiglipVisionTower(VisionTower):
    """SigLIP without its last layer and pooling head; the features are those before the final norm."""

    family = "siglip"
    model_class = SiglipVisionModel

    def adapt_config(self, config: PretrainedConfig) -> PretrainedConfig:
        config.num_hidden_layers -= 1
        config.vision_use_head = False
        return config

    @property
    def depth(self) -> int:
        return self.config.num_hidden_layers


class ClipVisionTower(VisionTower):
    """CLIP up to the selected layer, with or without its class token."""

    family = "clip"
    model_class = CLIPVisionModel

    def _check_selection(self) -> None:
        if self.select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"mm_vision_select_feature {self.select_feature!r}: expected 'patch' or 'cls_patch'")
        layers = self.config.num_hidden_layers
        if not -layers - 1 <= self.select_layer <= layers:
            raise ValueError(f"mm_vision_select_layer {self.select_layer}: the tower has hidden states 0 to {layers}")

    @property
    def depth(self) -> int:
        return self.select_layer % (self.config.num_hidden_layers + 1)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.vision_tower.pre_layrnorm(super().embed(pixels))

    def select(self, hidden: Tensor) -> Tensor:
        return hidden[:, 1:] if self.select_feature == "patch" else hidden
