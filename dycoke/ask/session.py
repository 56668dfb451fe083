"""`dycoke ask` from its arguments to what is on the screen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers.utils import logging as transformers_logging

from dycoke.ask.asked import Asked
from dycoke.ask.tables import comparison_table, report_table
from dycoke.families.chat import Chat, load_chat, placement
from dycoke.nano import EMBEDDED, MODEL_PATH, checkpoint_of
from dycoke.nano.drawn import is_drawn
from dycoke.offline.answer import answer, check_frames, check_length, check_new_tokens, check_question, warm_up
from dycoke.text.visible import visible, visible_line
from dycoke.types import Method, Plan
from dycoke.video.frames import read_frames
from dycoke.video.reading import check_count
from llava.constants import DEFAULT_IMAGE_TOKEN

_NOISY = r"(transformers|torch|huggingface_hub|accelerate|numpy|PIL)\b"
_NOT_DRAWN = (
    "dycoke: the embedded model knows drawn clips only (shapes, digits and letters before clouds), and this video is "
    "none: expect no sense in the answer; --model names another"
)


def ask(asked: Asked, methods: dict[str, Method | Plan], out: Console, progress: Console) -> None:
    """Print the streamed answer and its report, or several methods side by side; methods are `chosen_methods`.

    What is cheap to refuse is refused first, the model is loaded last. Raises ValueError and OSError on bad input.
    """
    check_question(asked.question, (DEFAULT_IMAGE_TOKEN,))
    where = placement(asked.device, asked.dtype)
    check_new_tokens(asked.max_new_tokens)
    check_count(asked.frames)
    name = checkpoint_of(EMBEDDED if asked.model is None else asked.model)
    with _quiet(progress):
        for method in methods.values():
            check_frames(name, method, asked.frames)
        with progress.status(Text(f"reading {asked.frames} frames of {visible_line(asked.video)}")):
            frames = read_frames(asked.video, asked.frames, reader=asked.reader, sampling=asked.sampling)
        if name == str(MODEL_PATH) and not is_drawn(frames):
            progress.print(Text(_NOT_DRAWN), soft_wrap=True)
        with progress.status(Text(f"loading {visible_line(name)} on {where.device}")):
            chat = load_chat(name, where, asked.preprocess)
            check_question(asked.question, chat.placeholders)
            request = chat.request(frames, asked.question)
            for method in methods.values():
                check_length(chat, method, request, len(frames))
        if not asked.compare:
            (method,) = methods.values()
            _stream(chat, method, request, asked.max_new_tokens, out, progress)
        else:
            _compare(chat, methods, request, asked.max_new_tokens, out, progress)


def _stream(
    chat: Chat, method: Method | Plan, request: dict[str, Any], max_new_tokens: int, out: Console, progress: Console
) -> None:
    with progress.status("encoding the video") as status:

        def show(text: str) -> None:
            status.stop()  # before the first piece; stopping twice does nothing
            out.file.write(visible(text))
            out.file.flush()

        done = answer(chat, method, request, max_new_tokens, show)
    out.file.write("\n\n")
    out.print(report_table(done.report, done.cut))


def _compare(
    chat: Chat,
    methods: dict[str, Method | Plan],
    request: dict[str, Any],
    max_new_tokens: int,
    out: Console,
    progress: Console,
) -> None:
    answers = {}
    with progress.status("") as status:
        for name, method in methods.items():
            status.update(Text(f"{visible_line(name)}: warming up"))
            warm_up(chat, method, request)
        for name, method in methods.items():
            status.update(Text(f"{visible_line(name)}: answering"))
            answers[name] = answer(chat, method, request, max_new_tokens)
    out.print(comparison_table(answers))


@contextmanager
def _quiet(progress: Console) -> Iterator[None]:
    """Silence other libraries' bars and warnings; our own warnings are a line each."""

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        progress.print(Text(f"dycoke: {visible_line(str(message))}"), soft_wrap=True)

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_NOISY)
            warnings.showwarning = tell
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
