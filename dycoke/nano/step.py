"""One training step's loss: the answers' cross entropy, and dense auxiliary heads on the vision tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dycoke.nano.augment import degrade, normalise, to_unit
from dycoke.nano.batches import IGNORE, Batch, Rows
from dycoke.nano.generator import Frames, render
from dycoke.nano.generator.render import BOX, FRAME, NONE
from dycoke.nano.generator.scene import COLORS
from dycoke.nano.views import View

if TYPE_CHECKING:
    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

_SIGN_SHARE = 0.5


class DenseHeads(nn.Module):
    """Reads patches' colours and shapes, and frames' digits, letters and lamps, off the tower; for training only."""

    def __init__(self, width: int):
        super().__init__()
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.shape = nn.Linear(width, BOX + 1)
        self.digit = nn.Linear(width, NONE + 1)
        self.letter = nn.Linear(width, NONE + 1)
        self.lamp = nn.Linear(width, 2)

    def forward(self, features: Tensor, frames: Frames) -> Tensor:
        """Summed cross entropies; features [B * F, P, C], annotations as `Frames` holds them."""
        color = F.cross_entropy(self.color(features).float().flatten(0, 1), frames.color.flatten())
        shape = F.cross_entropy(self.shape(features).float().flatten(0, 1), frames.shape.flatten())
        whole = features.mean(1)
        signs = sum(
            F.cross_entropy(head(whole).float(), target.flatten())
            for head, target in ((self.digit, frames.digit), (self.letter, frames.letter), (self.lamp, frames.lamp))
        )
        return color + shape + _SIGN_SHARE * signs


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
        self.heads = DenseHeads(model.config.mm_hidden_size)
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

    def text_logits(self, visual: Tensor, rows: Rows, positions: Tensor | None) -> Tensor:
        """Logits that predict rows.ids, [B, L, vocabulary]; visual [B, V, D]."""
        model = self.model.get_model()
        batch = visual.shape[0]
        embed = model.embed_tokens
        newline = model.image_newline.expand(batch, 1, -1)
        parts = [embed(self.prefix).expand(batch, -1, -1), visual, newline, embed(rows.ids)]
        sequence = torch.cat([part.to(visual.dtype) for part in parts], 1)
        # rows are padded on the right only, so causality alone keeps padding out
        # with position ids alone, transformers takes a gap for the border between two packed sequences
        mask = None if positions is None else torch.ones_like(sequence[..., 0], dtype=torch.int64)
        hidden = model(
            inputs_embeds=sequence, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return self.model.lm_head(hidden[:, -rows.ids.shape[1] - 1 : -1])

    def forward(self, pixels: Tensor, frames: Frames, view: View, rows: Rows) -> tuple[Tensor, Tensor]:
        """(answer loss, dense loss), scalars; pixels [B, F, 3, S, S] in [-1, 1]."""
        tokens, features = self.visual_tokens(pixels, view.grid)
        positions = place_ids(view, self.prefix.shape[1], rows.ids.shape[1], pixels.device)
        logits = self.text_logits(tokens.flatten(1, 2), rows, positions).float()
        each = F.cross_entropy(logits.flatten(0, 1), rows.labels.flatten(), ignore_index=IGNORE, reduction="none")
        weights = rows.weights.flatten()
        return (each * weights).sum() / weights.sum(), self.heads(features, frames)


@torch.no_grad()
def draw(batch: Batch, seed: int, device: torch.device) -> tuple[Tensor, Frames]:
    """Draw a batch on `device`: degraded pixels in [-1, 1] and the annotation; a function of (seed, step) alone."""
    # `degrade` adds noise of its own, of many strengths, so the scene's is left out
    frames = render(batch.scene.to(device), batch.view.ticks.to(device), FRAME, noise=False)
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + batch.step)
    return normalise(degrade(to_unit(frames.pixels), generator)), frames
