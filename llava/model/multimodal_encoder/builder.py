"""Choose the vision tower a config asks for."""

from transformers import PretrainedConfig

from llava.model.multimodal_encoder.towers import ClipVisionTower, SiglipVisionTower, VisionTower
from llava.model.multimodal_encoder.vision_config import tower_family

TOWERS = {"siglip": SiglipVisionTower, "clip": ClipVisionTower}


def build_vision_tower(config: PretrainedConfig, delay_load: bool = False) -> VisionTower:
    """Return the SigLIP or CLIP tower named by config.mm_vision_tower; "siglip" in the name decides first."""
    return TOWERS[tower_family(config)](config, delay_load=delay_load)
