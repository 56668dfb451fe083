"""Read what a checkpoint folder holds, and compare it with what a model needs."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

# First match wins, as in transformers.
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOWER_PREFIX = "model.vision_tower."
HUB_PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.txt", "tokenizer.model"]
NAMED = 8  # tensors an error names before it only counts them

# Buffers that older releases stored and newer ones compute.
STALE = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint, following its shard index if there is one.

    Raises FileNotFoundError if there are none or a shard is absent, ValueError if the index cannot be read.
    """
    for index_name, file_name in zip(INDEX_FILES, WEIGHT_FILES, strict=True):
        if (folder / file_name).is_file():
            return [folder / file_name]
        index = folder / index_name
        if index.is_file():
            return _shards(index)
    raise FileNotFoundError(f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES + INDEX_FILES)}")


def _shards(index: Path) -> list[Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{index} is not a shard index: {error}") from error
    for part in ("weight_map", "metadata"):  # transformers reads both
        if not isinstance(content, dict) or not isinstance(content.get(part), dict):
            raise ValueError(f"{index} is not a shard index: its {part} is not an object")
    names = list(content["weight_map"].values())
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{index} is not a shard index: its weight_map holds something other than file names")
    files = [index.parent / name for name in sorted(set(names))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names shards that are not there: {', '.join(absent)}")
    return files


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a checkpoint, reading headers only.

    Raises ValueError naming a file that is truncated or no weight file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as handle:
                shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
        else:
            shapes |= {name: tuple(tensor.shape) for name, tensor in _read_bin(file).items()}
    return shapes


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of every tensor of a checkpoint; raises as tensor_shapes does."""
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as handle:
                for name in handle.keys():  # noqa: SIM118
                    yield name, handle.get_tensor(name)
        else:
            yield from _read_bin(file).items()


def _open_safetensors(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or not a safetensors file: {error}") from error


def _read_bin(file: Path) -> dict[str, Tensor]:
    # Only zip archives can be mapped; mapping keeps a header read from loading the whole file.
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        # What torch goes on to advise would run what the file holds.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ValueError(f"{file} is truncated or holds more than tensors{what}, which are never read") from error
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{file} is truncated or holds more than tensors: {error}") from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{file} holds a {type(tensors).__name__}, expected a dict of tensors")
    return tensors


def check_tensors(model: nn.Module, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    """Raise ValueError naming the tensors that `shapes` lacks, has too many, or has in another shape than `model`.

    A tied output layer may be absent. `source` names the checkpoint in the message.
    """
    expected = {_plain(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {_plain(name): shape for name, shape in shapes.items() if not STALE.search(name)}
    optional = {"lm_head.weight"} if getattr(model.config, "tie_word_embeddings", False) else set()
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(shape)} instead of {list(expected[name])}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    problems = [
        _enumerate(kind, names)
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise ValueError(f"checkpoint {source} does not fit {type(model).__name__}: {'; '.join(problems)}")


def _plain(name: str) -> str:
    """Drop the level that transformers removed from its vision models but files still have."""
    return name.replace("vision_tower.vision_tower.vision_model.", "vision_tower.vision_tower.")


def file_name(name: str) -> str:
    """Return the name a tensor of a model has in a LLaVA-NeXT file."""
    return _plain(name).replace("vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model.")


def _enumerate(kind: str, names: list[str]) -> str:
    listed = ", ".join(file_name(name) for name in names[:NAMED])
    return f"{len(names)} {kind} ({listed}{', ...' if len(names) > NAMED else ''})"


def load_tower_weights(encoder: nn.Module, folder: Path) -> None:
    """Fill a vision encoder from the folder of a SigLIP or CLIP checkpoint.

    Text and pooling tensors and layers beyond the encoder's are left out. Raises FileNotFoundError if there are no
    weights, ValueError if a tensor is missing or has another shape.
    """
    wanted = encoder.state_dict()
    tensors = {}
    for key, tensor in read_tensors(folder):
        plain = key.removeprefix("vision_model.")
        if plain in wanted:
            tensors[plain] = tensor
    check_tensors(encoder, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, str(folder))
    encoder.load_state_dict(tensors)


def tower_folder(name: str) -> Path:
    """Return the folder of a tower that lies apart from its checkpoint. Raises FileNotFoundError if there is none."""
    try:
        return local_folder(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the checkpoint does not hold its vision tower, and {error}; point mm_vision_tower at a local folder"
        ) from error


def local_folder(name: str) -> Path:
    """Return a folder as it is, and a hub repository as the folder it was downloaded to.

    Raises FileNotFoundError if `name` is neither on this machine nor to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name!r} is not a local folder and cannot be fetched from the hub") from error
