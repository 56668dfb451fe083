"""What the two `llava` models of lmms-eval share once they answer in our way: loading, and one batch of videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lmms_eval.api.model import lmms

from dycoke.eval.models.answering import Answering, Asked
from dycoke.eval.models.arguments import Arguments
from dycoke.eval.models.encoder_cache import EncoderCache
from dycoke.eval.models.llava_prompts import batch_ids, conversation, stop_text, write_prompt
from dycoke.eval.models.place import place
from dycoke.eval.runs.samples import Samples
from dycoke.offline.answers import Generated, ending_ids
from dycoke.types import Method, Plan
from dycoke.video.pixels import FrameSettings, frames_on, pixels_of
from dycoke.video.reading import PYAV
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path
from llava.model.builder import load_pretrained_model


class LlavaModel(Answering):
    """Mixed into a built-in class whose model comes from `llava`. Further attributes are the built-in class's.

    `generation(settings)`, of each of them, gives arguments of `generate` for a task's generation settings.
    """

    encoded: EncoderCache | None = None
    on_device: FrameSettings | None = None  # how frames become pixels; None leaves them to the image processor

    def load(self, arguments: Arguments, settings: Mapping[str, Any], overwrite: Mapping[str, Any]) -> None:
        """Load the checkpoint, place it and put the method on it.

        settings: arguments of the built-in constructor, all of them; overwrite: keys of the checkpoint's config.
        Raises what `load_pretrained_model`, `place` and `frames_on` raise, and ValueError for a template there is none
        of.
        """
        lmms.__init__(self)
        conversation(settings["conv_template"])
        dtype = arguments.dtype or settings.get("torch_dtype", "float16")
        asked = (arguments.builtin.get(name) for name in ("device", "device_map"))
        where = place(*asked, arguments.deepspeed, dtype)
        samples = self.take_place(where, arguments)
        name = settings.get("model_name") or get_model_name_from_path(settings["pretrained"])
        with where.loading():
            self._tokenizer, self._model, self._image_processor, self._max_length = load_pretrained_model(
                settings["pretrained"],
                None,
                name,
                device_map=where.device_map,
                torch_dtype=dtype,
                attn_implementation=settings["attn_implementation"],
                customized_config=settings.get("customized_config"),
                overwrite_config=dict(overwrite) or None,
            )
        where.loaded(self._model)
        self.on_device = frames_on(arguments.preprocess, self._image_processor, self.device)
        self._config = self._model.config
        # Rows of a batch go on behind their prompts, so padding stands in front of them.
        self._config.tokenizer_padding_side = "left"
        self.pretrained = settings["pretrained"]
        self.sampling = arguments.sampling
        self.reader = arguments.reader or arguments.builtin.get("video_decode_backend", PYAV)
        for option in ("truncation", "conv_template", "use_cache", "truncate_context", "video_decode_backend"):
            setattr(self, option, settings[option])
        self._pad = self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        if arguments.encoder_cache:
            self.encoded = EncoderCache(self.model, arguments.encoder_cache)
        arguments.chosen.check(self.model)
        self.use(arguments.chosen.method, samples)

    def use(self, method: Method | Plan, samples: Samples) -> None:
        super().use(method, samples)
        if self.encoded is not None:
            self.encoded.follow(self._plan)

    def generate(self, clips: list[np.ndarray], asked: list[Asked]) -> Generated:
        """Answer one batch of questions, each about a video of its own."""
        prompts = [
            write_prompt(self.conv_template, self.question(clip, each.context))
            for clip, each in zip(clips, asked, strict=True)
        ]
        ids, mask = (each.to(self.device) for each in batch_ids(prompts, self.tokenizer, self._pad))
        looks = self._image_processor, self.on_device, self.device, self.model.dtype
        pixels = [pixels_of(clip, *looks) for clip in clips]
        stop = KeywordsStoppingCriteria([stop_text(self.conv_template)], self.tokenizer, ids)
        new = self.model.generate(
            ids,
            attention_mask=mask,
            pad_token_id=self._pad,
            images=pixels,
            modalities=["video"] * len(clips),
            use_cache=self.use_cache,
            stopping_criteria=[stop],
            **self.together,
            **self.generation(asked[0].generation),
        )
        return Generated(new, ending_ids(self.model), self._pad)

    def shell(self) -> str:
        return write_prompt(self.conv_template, "")

    def question(self, clip: np.ndarray, context: str) -> str:
        """The question with its placeholder in front."""
        placeholder = DEFAULT_IMAGE_TOKEN
        if self.model.config.mm_use_im_start_end:
            placeholder = DEFAULT_IM_START_TOKEN + placeholder + DEFAULT_IM_END_TOKEN
        return f"{placeholder}\n{context}"
