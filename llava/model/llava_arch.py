"""The multimodal parts shared by the language models: tower, projector, newline, packing, generation."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, Qwen2ForCausalLM

from llava.constants import IMAGE_TOKEN_INDEX
from llava.context import check_fits, readable
from llava.errors import Unsupported
from llava.mm_utils import check_image_tokens, has_one_each
from llava.model.checkpoint import file_name
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.towers import VisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.packing import Packed, PromptRow, read_rows, splice
from llava.model.seam import VideoSeam
from llava.model.visual import build_blocks, image_entries, pool_features

# transformers renamed the argument in 5.24.
_CACHE_NAME = "cache" if "cache" in inspect.signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"


class LlavaMetaModel:
    """Mixin that gives a decoder-only transformer its vision tower, projector and image_newline.

    The tower is built here, to be filled from the checkpoint, unless config.delay_load is true.
    """

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        if getattr(config, "mm_vision_tower", None) is None:
            raise ValueError("config.mm_vision_tower is None: expected the name or folder of a vision tower")
        if getattr(config, "add_faster_video", False):
            raise Unsupported("add_faster_video is not supported: no published model uses it")
        self.vision_tower = build_vision_tower(config, delay_load=getattr(config, "delay_load", False))
        self.mm_projector = build_vision_projector(config)
        newline = None
        if "unpad" in getattr(config, "mm_patch_merge_type", "flat"):
            newline = nn.Parameter(torch.randn(config.hidden_size) * config.hidden_size**-0.5)
        self.register_parameter("image_newline", newline)

    def get_vision_tower(self) -> VisionTower:
        return self.vision_tower


class LlavaMetaForCausalLM:
    """Mixin that lets a causal language model read images and videos.

    `video_seam` is None, or what an attached compressor has put on the instance (see llava.model.seam).
    """

    video_seam: VideoSeam | None = None

    def get_model(self) -> LlavaMetaModel:
        return self.model

    def get_vision_tower(self) -> VisionTower:
        return self.model.vision_tower

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode and project images [N, 3, S, S] of any float type to tokens [N, P, D]."""
        features = self.get_vision_tower()(images.to(self.get_vision_tower().dtype))
        return self.model.mm_projector(features)

    def get_2dPool(self, image_feature: Tensor, stride: int = 2) -> Tensor:
        """Pool frames [T, P, D] as config.mm_spatial_pool_mode says, which is read at every call."""
        return pool_features(self, image_feature, stride)[0]

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Tensor | Sequence[Tensor] | None,
        modalities: Sequence[str] | str = ("image",),
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        padding_side: str | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]:
        """Replace the <image> placeholders of a batch by visual tokens, as LLaVA-NeXT does.

        input_ids, attention_mask, labels [B, L]; images a list (or 5-D tensor) with one entry for each image or
        video, or a 4-D tensor of plain images; modalities[i] is "video" if entry i is one; image_sizes[i] =
        (width, height). Returns (None, position_ids, attention_mask, past_key_values, inputs_embeds [B, S, D],
        labels); what came in as None stays None, except position ids chosen by an attached seam. Without images,
        or with a single token a row, everything comes back unchanged and inputs_embeds is None.
        padding_side overrides config.tokenizer_padding_side. With labels, as in training, rows are cut to
        config.tokenizer_model_max_length, as LLaVA-NeXT does, unless a compressor is attached. Raises ValueError or
        TypeError on inputs that do not fit together, and ValueError for a prompt longer than the model reads.
        """
        return self._prepared(
            input_ids, position_ids, attention_mask, past_key_values, labels, images, modalities, image_sizes,
            padding_side, to_caller=True,
        )  # fmt: skip

    def _prepared(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Tensor | Sequence[Tensor] | None,
        modalities: Sequence[str] | str,
        image_sizes: Sequence[tuple[int, int]] | None,
        padding_side: str | None = None,
        *,
        to_caller: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]:
        """As `prepare_inputs_labels_for_multimodal`. to_caller: the batch leaves the model's own calls."""
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        packed, chosen = self._pack(
            input_ids, attention_mask, labels, images, modalities, image_sizes, padding_side, to_caller
        )
        mask = None if attention_mask is None else packed.mask.to(attention_mask.dtype)
        if chosen is not None:
            position_ids = chosen
            if mask is None:  # without a mask transformers takes a gap in the positions for the start of a new sample
                mask = packed.mask.long()
        elif position_ids is not None:
            position_ids = packed.consecutive()
        return None, position_ids, mask, past_key_values, packed.embeds, packed.labels

    def _pack(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        images: Tensor | Sequence[Tensor] | None,
        modalities: Sequence[str] | str,
        image_sizes: Sequence[tuple[int, int]] | None,
        padding_side: str | None,
        to_caller: bool = False,
        *,
        strict: bool | None = False,
    ) -> tuple[Packed, Tensor | None]:
        """Return the packed batch, with or without images, and the position ids an attached seam chose."""
        entries = [] if images is None else image_entries(images)
        if strict is None and images is not None:
            strict = has_one_each(input_ids, len(entries))
        if images is not None and strict:
            check_image_tokens(input_ids, len(entries))
        rows = read_rows(input_ids, attention_mask, labels, len(entries), unseen=not strict)
        texts = self._embed_texts(rows)
        text_of = {entry: text for row, text in zip(rows, texts, strict=True) for entry in row.entries}
        blocks = build_blocks(self, entries, images, modalities, image_sizes, text_of)
        if padding_side is None:
            padding_side = getattr(self.config, "tokenizer_padding_side", "right")
        # What training does without anyone's question would take the question away in an answer.
        cuts = labels is not None and self.video_seam is None
        max_length = getattr(self.config, "tokenizer_model_max_length", None) if cuts else None
        packed = splice(rows, texts, blocks, max_length, padding_side)
        if not cuts:
            check_fits(packed.embeds.shape[1], readable(self.config))
        if self.video_seam is None:
            return packed, None
        chosen = self.video_seam.packed(packed._replace(padded=packed.padded or to_caller))
        return packed, None if images is None else chosen

    def _embed_texts(self, rows: Sequence[PromptRow]) -> list[Tensor]:
        embeds = self.get_input_embeddings()(torch.cat([row.text_ids for row in rows]))
        return list(embeds.split([row.text_ids.shape[0] for row in rows]))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        images: Tensor | Sequence[Tensor] | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        modalities: Sequence[str] | str = ("image",),
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ):
        """Run the language model on ids, images and videos, or on inputs_embeds [B, S, D] as they are.

        Takes and returns what the language model of transformers does, the cache by either of its names; logits and
        labels count packed tokens.
        """
        past_key_values = kwargs.pop("cache", past_key_values)
        if inputs_embeds is None:
            if images is None and input_ids is not None and input_ids.shape[1] > 1:
                refuse_placeholders(input_ids)
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = self._prepared(
                input_ids,
                position_ids,
                attention_mask,
                past_key_values,
                labels,
                images,
                modalities,
                image_sizes,
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{_CACHE_NAME: past_key_values},
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Tensor | Sequence[Tensor] | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        modalities: Sequence[str] | str = ("image",),
        *,
        strict: bool | None = None,
        **kwargs: Any,
    ):
        """Answer a batch of prompts; returns the new ids [B, n] only.

        inputs (or input_ids) [B, L] int64 with -200 where an image or video stands; the other arguments are those
        of prepare_inputs_labels_for_multimodal and of transformers' generate. Several rows are padded on the left,
        whatever the config says. There is one placeholder for each image or video, in their order, or at
        least one in each row; strict=True wants one for each; with strict=False, as in LLaVA-NeXT, a row without any
        uses up one of them unseen. Surplus ones are not read, unless strict.
        Raises ValueError on inputs that do not fit together, for a prompt longer than the model reads (what is
        generated may go beyond), NotImplementedError on inputs_embeds.
        """
        if "inputs_embeds" in kwargs:
            raise Unsupported("generate takes inputs (token ids) and images, not inputs_embeds")
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None:
            raise ValueError("generate needs inputs: token ids of shape [B, L]")
        if images is None:
            refuse_placeholders(input_ids)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        shown = images, modalities, image_sizes
        packed, chosen = self._pack(input_ids, attention_mask, None, *shown, "left", strict=strict)
        given = kwargs.pop("position_ids", None)
        if chosen is not None or given is not None:
            kwargs["position_ids"] = packed.consecutive() if chosen is None else chosen
        mask = packed.mask.to(attention_mask.dtype)
        return super().generate(inputs_embeds=packed.embeds, attention_mask=mask, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config and weights under LLaVA-NeXT's tensor names; other arguments are those of transformers."""
        tensors = self.state_dict() if state_dict is None else state_dict
        tensors = {file_name(name): tensor for name, tensor in tensors.items()}
        # transformers would rename back only what it renamed itself when loading.
        kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, is_main_process, tensors, **kwargs)


def refuse_placeholders(input_ids: Tensor) -> None:
    """Raise ValueError if a prompt without images has an <image> placeholder."""
    found = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if found:
        raise ValueError(f"prompt has {found} <image> tokens for 0 images or videos: images is None")
