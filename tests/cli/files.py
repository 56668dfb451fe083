"""Small video files, whole and broken, and a tiny checkpoint in transformers' format."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.llava import tiny

FAST_START = {"movflags": "faststart"}  # the index in front, so that a cut file still opens


def write_video(
    path: Path, frames: int = 12, side: int = 64, codec: str = "mpeg4", options: dict | None = None
) -> Path:
    """An mp4 whose frame i has the brightness 10 * i, with a little noise."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=4)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            image = (10 * i + noise.integers(0, 6, (side, side, 3))).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """An mp4 without a video in it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_cut(path: Path, share: float, **kwargs) -> Path:
    """The first `share` of an mp4's bytes."""
    content = write_video(path, **kwargs).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def write_hf_checkpoint(path: Path) -> Path:
    """A tiny LlavaOnevisionForConditionalGeneration with its processor, as save_pretrained writes them."""
    from transformers import (
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Tokenizer,
    )

    path.mkdir(parents=True)
    tiny.write_tokenizer(path)
    tokenizer = Qwen2Tokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    image_id, video_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    side = 24
    size = {"height": side, "width": side}
    looks = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config = tiny.hf_config(
        image_id,
        video_id,
        vocab_size=320,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    tiny.fill_randomly(model)
    model.save_pretrained(path)
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }} "
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% else %}<{{ part['type'] }}>\n{% endif %}{% endfor %}<|im_end|>{% endfor %}<|im_start|>assistant\n"
    )
    LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**looks, image_grid_pinpoints=[[side, side]]),
        video_processor=LlavaOnevisionVideoProcessor(**looks),
        tokenizer=tokenizer,
        num_image_tokens=36,
        vision_feature_select_strategy="full",
        chat_template=template,
    ).save_pretrained(path)
    return path
