"""`dycoke_hf`: LLaVA-OneVision checkpoints in transformers' own format, in lmms-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lmms_eval.api.model import lmms
from PIL import Image

from dycoke.eval.models.answering import Answering, Asked
from dycoke.eval.models.arguments import split_arguments
from dycoke.eval.models.generation import greedy_or_sampled
from dycoke.eval.models.place import place
from dycoke.families.chat import DTYPES, Placement, placement
from dycoke.families.llava_onevision.chat import load
from dycoke.offline.answers import Generated, ending_ids
from dycoke.video.frames import read_frames
from dycoke.video.reading import PYAV


class LlavaOnevisionHF(Answering, lmms):
    """transformers' LlavaOnevisionForConditionalGeneration, with `full` where no method is asked for.

    Takes pretrained, device, device_map, attn_implementation, max_frames_num and use_cache beside our own arguments.
    Videos, files or folders of frames, are read at evenly spaced frames; pictures and text are answered too, one
    question at a time.
    """

    def __init__(
        self,
        pretrained: str = "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        device: str | None = None,
        device_map: str | None = None,
        batch_size: int | str | None = 1,
        attn_implementation: str = "sdpa",
        max_frames_num: int = 32,
        use_cache: bool = True,
        **given: Any,
    ) -> None:
        super().__init__()
        arguments = split_arguments({**given, "batch_size": batch_size}, LlavaOnevisionHF)
        if arguments.encoder_cache:
            raise ValueError(f"encoder_cache={arguments.encoder_cache}: dycoke_hf encodes every video; leave it out")
        dtype = DTYPES.get(arguments.dtype) or placement("cpu" if device == "cpu" else "auto", "auto").dtype
        where = place(device, device_map, arguments.deepspeed, dtype)
        samples = self.take_place(where, arguments)
        with where.loading():
            self._chat = load(pretrained, Placement(where.device_map, dtype), attn_implementation, arguments.preprocess)
        where.loaded(self._chat.model)
        self.max_frames_num, self.use_cache = max_frames_num, use_cache
        self.reader, self.sampling = arguments.reader or PYAV, arguments.sampling
        self.tokenizer.padding_side = "left"  # rows of a batch go on behind their prompts
        arguments.chosen.check(self.model)
        self.use(arguments.chosen.method, samples)

    @property
    def model(self) -> Any:
        return self._chat.model

    @property
    def tokenizer(self) -> Any:
        return self._chat.tokenizer

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    @property
    def device(self) -> Any:
        return self._device

    def tok_encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def clip(self, visuals: list[str]) -> np.ndarray:
        return read_frames(visuals[0], self.max_frames_num, reader=self.reader, sampling=self.sampling)

    def generate(self, clips: list[np.ndarray], asked: list[Asked]) -> Generated:
        """Answer one batch of questions, each about a video of its own."""
        prompts = [self._prompt(each.context, "video", 1) for each in asked]
        return self._generate(asked[0].generation, self._chat.inputs(prompts, clips))

    def answer_alone(self, asked: Asked) -> str:
        """Answer a question about pictures, or without any. Raises TypeError for other visuals."""
        pictures = asked.visuals(self.task_dict)
        if not all(isinstance(each, Image.Image) for each in pictures):
            raise TypeError(f"visuals of type {type(pictures[0]).__name__}: expected a path of a video, or pictures")
        shown = {"images": pictures} if pictures else {}
        prompt = self._prompt(asked.context, "image", len(pictures))
        ready = self._chat.processor(text=[prompt], return_tensors="pt", **shown)
        generated = self._generate(asked.generation, ready.to(self.device, self.model.dtype))
        return self.tokenizer.batch_decode(generated.new, skip_special_tokens=True)[0].strip()

    def shell(self) -> str:
        return self._prompt("", "video", 1)

    def _prompt(self, context: str, kind: str, count: int) -> str:
        content = [*([{"type": kind}] * count), {"type": "text", "text": context}]
        message = [{"role": "user", "content": content}]
        return self._chat.processor.apply_chat_template(message, add_generation_prompt=True)

    def _generate(self, generation: Mapping[str, Any], ready: Mapping[str, Any]) -> Generated:
        pad = self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        ids = self.model.generate(
            **ready,
            pad_token_id=pad,
            use_cache=self.use_cache,
            **self.together,
            **greedy_or_sampled(generation),
        )
        return Generated(ids[:, ready["input_ids"].shape[1] :], ending_ids(self.model), pad)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("dycoke_hf generates answers; it scores no given ones")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError("dycoke_hf answers in one round")
