"""Image processors with the PIL backend, whose pixels equal the original's bit for bit."""

import json
import warnings
from pathlib import Path

from transformers import PretrainedConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

PROCESSORS = {"siglip": SiglipImageProcessorPil, "clip": CLIPImageProcessorPil}


def build_image_processor(family: str, vision_config: PretrainedConfig, *folders: str | Path | None):
    """Return the processor of a tower: from the first folder that has one, otherwise from the image size.

    SigLIP squeezes an image to image_size x image_size; CLIP resizes its shorter edge and crops the centre. A
    preprocessor_config.json for another family of processors is passed over with a warning.
    """
    processor_class = PROCESSORS[family]
    side = vision_config.image_size
    square = {"height": side, "width": side}
    for folder in folders:
        if _has_processor(folder, family):
            processor = processor_class.from_pretrained(folder)
            break
    else:
        size = {"shortest_edge": side} if family == "clip" else square
        processor = processor_class(size=size, crop_size=square)
    if processor.crop_size is None:  # SigLIP's files have none, but anyres tiling reads the tile size from it
        processor = processor_class.from_dict({**processor.to_dict(), "crop_size": square})
    return processor


def _has_processor(folder: str | Path | None, family: str) -> bool:
    file = Path(folder or "") / "preprocessor_config.json"
    if folder is None or not file.is_file():
        return False
    content = json.loads(file.read_text())
    kind = content.get("image_processor_type") or content.get("feature_extractor_type") or ""
    if not kind.lower().startswith(family):
        warnings.warn(f"{file} is for {kind or 'no named processor'}, not for a {family} tower", stacklevel=3)
        return False
    return True
