"""SigLIP's pooling head, which LLaVA-OneVision's files lack: one embedding a frame, and where it looks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel


class PoolingHead(nn.Module):
    """A SigLIP model's final norm and attention pooling; a learned query asks for all patches of a frame."""

    def __init__(self, model: SiglipVisionModel) -> None:
        super().__init__()
        self.norm, self.head = model.post_layernorm, model.head

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [F, P, C] of a tower's output -> scenes [F, C] and attention over patches [F, P] (head mean), fp32."""
        head = self.to(hidden.device, hidden.dtype).head
        hidden = self.norm(hidden)
        query = head.probe.expand(len(hidden), -1, -1)
        pooled, attention = head.attention(query, hidden, hidden, need_weights=True)
        scenes = pooled + head.mlp(head.layernorm(pooled))
        return scenes[:, 0].float(), attention[:, 0].float()


class _HeadAlone(SiglipVisionModel):
    """A SigLIP vision model that reads no layers from its checkpoint, and says nothing of it."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"text_model", r"encoder\.", r"logit_"]


def load_pooling_head(path: str, width: int) -> PoolingHead:
    """Read the pooling head from the folder of a SigLIP checkpoint, with or without its text model.

    Raises FileNotFoundError if there is none, ValueError for one of another family, without a head, or of another
    width than the tower's.
    """
    folder = Path(path).expanduser()
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"vision_head={str(path)!r}: expected the folder of a SigLIP checkpoint; no {file}")
    kind = json.loads(file.read_text()).get("model_type")
    if kind not in ("siglip", "siglip_vision_model"):
        raise ValueError(f"vision_head={str(path)!r}: a checkpoint of type {kind!r}; expected a SigLIP one")
    config = SiglipVisionConfig.from_pretrained(folder)
    if config.hidden_size != width:
        raise ValueError(
            f"vision_head={str(path)!r}: a head {config.hidden_size} wide; the vision tower is {width} wide"
        )
    config.num_hidden_layers, config.vision_use_head = 0, True
    try:
        model, loaded = _HeadAlone.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True
        )
    except OSError as error:
        raise FileNotFoundError(f"vision_head={str(path)!r}: no weights in {folder}") from error
    missing = sorted(key for key in loaded["missing_keys"] if key.startswith(("head.", "post_layernorm.")))
    if missing:
        raise ValueError(f"vision_head={str(path)!r}: its weights lack {', '.join(missing)}")
    return PoolingHead(model.eval().requires_grad_(False))
