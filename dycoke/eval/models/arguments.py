"""Model arguments of lmms-eval: those that choose a method, and those of the built-in model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dycoke.eval.runs.specs import AUTO
from dycoke.families.chat import DTYPES
from dycoke.keywords import Chosen, choose_method
from dycoke.options import parse_value
from dycoke.plans import choose, read_choice
from dycoke.registry import entry
from dycoke.video.reading import INDEX, check_reader, check_sampling
from dycoke.video.routes import check_route

_WAYS = ("dycoke", "method", "method_options", "plan", "image_token_start_index")


@dataclass(frozen=True)
class Arguments:
    """What a model was given: a method (`full` if none was asked for) and the built-in model's own arguments.

    ours: whether anything was given that the built-in model does not know; then it is loaded and asked in our way.
    samples: file that one line for each sample is written to. encoder_cache: videos whose tokens are kept, 0 for none.
    preprocess: who makes pixels of a video's frames, "exact" or "device". batch_size: rows, or "auto" for as many as a
    share of the GPU's memory holds the keys and values of. reader: who reads the frames of a video, None where the
    arguments do not say; sampling: which ones (see `dycoke.video.frames.read_frames`).
    """

    chosen: Chosen
    dtype: str | None
    batch_size: int | Literal["auto"]
    samples: Path | None
    deepspeed: str | None
    encoder_cache: int
    preprocess: str
    reader: str | None
    sampling: str
    builtin: Mapping[str, Any]
    ours: bool

    def samples_of(self, rank: int, world: int) -> Path | None:
        """The file of one of several processes. Raises ValueError if it holds samples already."""
        if self.samples is None:
            return None
        file = self.samples if world == 1 else self.samples.with_suffix(f".rank{rank}{self.samples.suffix}")
        if file.is_file() and file.stat().st_size:
            raise ValueError(f"samples={file}: there are samples in it already; name another file, or remove it")
        return file


def split_arguments(given: Mapping[str, Any], builtin: type) -> Arguments:
    """Tell our arguments from those of a built-in class of lmms-eval.

    dycoke=True,dycoke_k=... is the published spelling; method=NAME,OPTION=... names any method; plan=FILE.yaml has one
    for each stage. Further ones of ours are dtype, samples, deepspeed, encoder_cache, preprocess, reader and sampling,
    and batch_size above 1 or "auto". A name that the built-in model or we take is never read as an option of the
    method; an option of that name can be given in a plan. Texts of options are read as their values: layers=[8,16].
    Raises ValueError for an argument that neither the built-in model nor the method has, and what choosing a method
    raises.
    """
    known = set(builtin_defaults(builtin))
    rest = dict(given)
    ways = {name: rest.pop(name) for name in list(rest) if name in _WAYS or name.startswith("dycoke_")}
    names = ("dtype", "samples", "deepspeed", "preprocess", "reader", "sampling")
    dtype, samples, deepspeed, preprocess, reader, sampling = (rest.pop(name, None) for name in names)
    encoder_cache = _integer("encoder_cache", rest.pop("encoder_cache", 0), 0)
    options = {name: rest.pop(name) for name in list(rest) if name not in known}
    chosen = _choose(ways, options)
    given_size = rest.get("batch_size")
    batch_size = 1 if given_size is None else _batch_size(given_size)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    if preprocess is not None:
        check_route(preprocess)
    _check_reading(reader, sampling, rest.get("video_decode_backend"))
    settings = (dtype, samples, deepspeed, preprocess, encoder_cache or None, reader, sampling)
    ours = chosen is not None or batch_size != 1 or any(each is not None for each in settings)
    samples = None if samples is None else Path(samples)
    method = chosen or Chosen(choose("full"))
    # exact unless asked for otherwise: scores are not to depend on the machine
    route = preprocess or "exact"
    reading = reader, sampling or INDEX
    return Arguments(method, dtype, batch_size, samples, deepspeed, encoder_cache, route, *reading, rest, ours)


def _check_reading(reader: str | None, sampling: str | None, backend: str | None) -> None:
    """Raise ValueError for a reader or sampling there is none of, or a reader beside another backend."""
    if reader is not None:
        check_reader(reader)
        if backend not in (None, reader):
            raise ValueError(f"reader={reader} and video_decode_backend={backend}: give one of them")
    if sampling is not None:
        check_sampling(sampling)


def builtin_defaults(builtin: type) -> dict[str, Any]:
    """The arguments of a built-in class's constructor, at their defaults."""
    parameters = inspect.signature(builtin.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.name != "self" and each.kind != each.VAR_KEYWORD}


def _choose(ways: dict[str, Any], options: dict[str, Any]) -> Chosen | None:
    """The method; options are arguments the built-in model does not have, so that they can only be the method's."""
    method = ways.get("method")
    if options:
        if not isinstance(method, str) or ways.get("method_options") is not None:
            raise ValueError(
                f"unknown argument {', '.join(options)}; an option of a method needs method=NAME beside it, and no "
                "method_options"
            )
        _check_known(read_choice(method).name, options)
        values = {key: parse_value(each) if isinstance(each, str) else each for key, each in options.items()}
        ways = {**ways, "method_options": values}
    return choose_method(ways)


def _check_known(name: str | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that is not an option of the method either; a plan says what it has itself."""
    accepted = options if name is None else entry(name).options
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise ValueError(
            f"unknown argument {', '.join(unknown)}: neither the model nor the method {name} has it; the method's "
            f"options: {', '.join(accepted) or 'none'}"
        )


def _batch_size(value: Any) -> int | Literal["auto"]:
    if value == AUTO:
        return AUTO
    try:
        return _integer("batch_size", value, 1)
    except ValueError as error:
        raise ValueError(f"{error}, or {AUTO}") from error


def _integer(name: str, value: Any, least: int) -> int:
    """lmms-eval hands over what its command line was given, a text or a number."""
    number = least - 1
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        number = int(value)
    if number < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
    return number
