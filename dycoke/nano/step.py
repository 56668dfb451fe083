"""One training step's loss: the answers' cross entropy, and that of the auxiliary heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dycoke.nano.augment import degrade, normalise, to_unit
from dycoke.nano.batches import IGNORE, Batch, Rows
from dycoke.nano.generator import FRAME
from dycoke.nano.generator.render import draw_frames
from dycoke.nano.heads import DenseHeads
from dycoke.nano.targets import Targets, targets
from dycoke.nano.views import View

if TYPE_CHECKING:
    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM


def place_ids(view: View, prefix: int, text: int, device: torch.device) -> Tensor | None:
    """Position ids [1, S] of a view whose frames keep their places, None where positions are consecutive."""
    if view.places is None:
        return None
    per_frame = view.grid**2
    visual = view.places.to(device)[:, None] * per_frame + torch.arange(per_frame, device=device)
    after = (view.places[-1].item() + 1) * per_frame
    tail = torch.arange(1 + text, device=device) + after
    return torch.cat([torch.arange(prefix, device=device), prefix + visual.flatten(), prefix + tail])[None]


class NanoStep(nn.Module):
    """The model, its auxiliary heads, and the way a batch goes through them."""

    def __init__(self, model: LlavaQwenForCausalLM, prefix: tuple[int, ...]):
        super().__init__()
        self.model = model
        self.heads = DenseHeads(model.config.mm_hidden_size, model.config.hidden_size)
        self.register_buffer("prefix", torch.tensor(prefix)[None], persistent=False)
        # the tower's features are those before its final norm, so that norm is never reached
        model.get_vision_tower().vision_tower.post_layernorm.requires_grad_(False)

    def compile(self) -> None:
        """Fuse the layers of tower and language model; their lengths stay free."""
        layers = [*self.model.get_vision_tower().vision_tower.encoder.layers, *self.model.get_model().layers]
        for layer in layers:
            layer.compile(dynamic=True)

    def visual_tokens(self, pixels: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, F, grid^2, D], pooled bilinearly, and the tower's features [B * F, P, C].

        pixels [B, F, 3, S, S] in [-1, 1].
        """
        model = self.model
        tower = model.get_vision_tower()
        features = tower(pixels.flatten(0, 1))
        tokens = model.get_model().mm_projector(features)
        side = tower.num_patches_per_side
        if grid != side:
            square = tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)
            tokens = F.interpolate(square, size=(grid, grid), mode="bilinear").flatten(2).transpose(1, 2)
        return tokens.unflatten(0, pixels.shape[:2]), features

    def last_layer(self, visual: Tensor, rows: Rows, positions: Tensor | None) -> Tensor:
        """Hidden states behind the last layer for prefix, visual tokens [B, V, D], newline and rows, [B, S, D]."""
        model = self.model.get_model()
        batch = visual.shape[0]
        embed = model.embed_tokens
        newline = model.image_newline.expand(batch, 1, -1)
        parts = [embed(self.prefix).expand(batch, -1, -1), visual, newline, embed(rows.ids)]
        sequence = torch.cat([part.to(visual.dtype) for part in parts], 1)
        # rows are padded on the right only, so causality alone keeps padding out
        # with position ids alone, transformers takes a gap for the border between two packed sequences
        mask = None if positions is None else torch.ones_like(sequence[..., 0], dtype=torch.int64)
        return model(
            inputs_embeds=sequence, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state

    def text_logits(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Logits that predict rows.ids, [B, L, vocabulary], from the last layer [B, S, D]."""
        return self.model.lm_head(hidden[:, -rows.ids.shape[1] - 1 : -1])

    def forward(self, pixels: Tensor, wanted: Targets, view: View, rows: Rows) -> tuple[Tensor, Tensor]:
        """(answer loss, auxiliary loss), scalars; pixels [B, F, 3, S, S] in [-1, 1]."""
        tokens, features = self.visual_tokens(pixels, view.grid)
        prefix = self.prefix.shape[1]
        positions = place_ids(view, prefix, rows.ids.shape[1], pixels.device)
        hidden = self.last_layer(tokens.flatten(1, 2), rows, positions)
        each = F.cross_entropy(
            self.text_logits(hidden, rows).float().flatten(0, 1),
            rows.labels.flatten(),
            ignore_index=IGNORE,
            reduction="none",
        )
        weights = rows.weights.flatten()
        seen = hidden[:, prefix : prefix + view.visual_tokens].unflatten(1, tokens.shape[1:3])
        # a batch of so few frames that nothing can be asked has no weight at all
        return (each * weights).sum() / weights.sum().clamp(min=1), self.heads(features, seen, view.grid, wanted)


@torch.no_grad()
def draw(batch: Batch, seed: int, device: torch.device) -> tuple[Tensor, Targets]:
    """Draw a batch on `device`: degraded pixels in [-1, 1] and what heads are to read.

    Both are a function of `seed` and the batch's number.
    """
    scene, ticks = batch.scene.to(device), batch.view.ticks.to(device, non_blocking=True)
    # `degrade` adds noise of its own, of many strengths, so the scene's is left out
    frames = draw_frames(scene, ticks, FRAME, noise=False)
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + batch.number)
    return normalise(degrade(to_unit(frames.pixels), generator)), targets(scene, ticks, frames)
