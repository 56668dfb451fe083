"""A model family is one file and one entry of the table: every part of the project then serves it."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import dycoke
from dycoke import families
from dycoke.eval.runs.specs import ModelSpec
from dycoke.families import FAMILIES, Family, adapter_for, family_of, lmms_eval_models
from dycoke.families.chat import load_chat, placement, size_of
from dycoke.families.requests import requests_of
from dycoke.families.sizes import Sizes, sizes_in
from dycoke.offline.generate import generate_many
from tests.llava import tiny

MODULE = "toy_family"
SOURCE = '''"""A family of a stranger's: llava under another name, with a context of its own."""

import json
from pathlib import Path

from dycoke.families.llava.adapter import LlavaAdapter
from dycoke.families.llava.chat import LlavaChat
from dycoke.families.llava.requests import LlavaRequests
from dycoke.families.sizes import Sizes
from llava.model import LlavaQwenForCausalLM
from llava.model.builder import load_pretrained_model


class ToyForVideo(LlavaQwenForCausalLM):
    pass


class ToyAdapter(LlavaAdapter):
    pass


class ToyRequests(LlavaRequests):
    def __init__(self, model):
        super().__init__(model)
        self.context = 500


def lengths(name, config):
    return 500, config["toy_per_frame"]


def load(name, where, preprocess="exact"):
    config = json.loads((Path(name) / "config.json").read_text())
    known = {**config, "architectures": ["LlavaQwenForCausalLM"]}
    tokenizer, model, processor, _ = load_pretrained_model(
        name, None, "llava_qwen", device_map=where.device, torch_dtype=where.dtype, attn_implementation="sdpa",
        customized_config=known,
    )
    model.__class__ = ToyForVideo
    return LlavaChat(model, tokenizer, processor, "qwen_1_5")


def sizes(config, model):
    return Sizes(layers=config["num_hidden_layers"], context=model.args["window"])


ADAPTER, REQUESTS = ToyAdapter, ToyRequests
'''
ENTRY = Family(
    package=MODULE,
    classes=("ToyForVideo",),
    supported=(f"{MODULE}.ToyForVideo",),
    adapter=MODULE,
    requests=MODULE,
    chat=MODULE,
    sizes=MODULE,
    architectures=("ToyForVideo",),
    lmms_eval={"toy_in_lmms_eval": f"{MODULE}.ToyModel"},
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The module of the family, whose entry is in the table for the length of a test."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, ENTRY))
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


@pytest.fixture
def toy_checkpoint(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "toy-llava-onevision-qwen2")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"architectures": ["ToyForVideo"], "toy_per_frame": 16}))
    return folder


def test_attach_serves_it(toy):
    """By the nearest class in the table, which stands before those it inherits from."""
    model = tiny.make_model(tiny.onevision_config())
    assert family_of(model) is families.LLAVA
    model.__class__ = toy.ToyForVideo
    assert family_of(model) is ENTRY
    with dycoke.attach(model, dycoke.build("dycoke", k=0.5, l=1)) as run:
        assert type(model.video_seam) is toy.ToyAdapter
        request = {"inputs": torch.tensor([[11, -200, 12]]), "images": [tiny.frames(4)], "modalities": ["video"]}
        generate_many(model, [request], max_new_tokens=2)
    assert run.report.stages["compress"].tokens == 16 + 3 * 8


def test_its_requests_are_packed(toy):
    model = tiny.make_model(tiny.onevision_config())
    model.__class__ = toy.ToyForVideo
    assert type(requests_of(model)) is toy.ToyRequests
    long = {"inputs": torch.full((1, 500), 7), "images": None}
    with pytest.raises(ValueError, match=r"requests\[0\]: a prompt of 500 tokens fills the 500 tokens the model reads"):
        generate_many(model, [long], max_new_tokens=2)


def test_its_checkpoints_are_loaded_and_asked(toy, toy_checkpoint, dycoke, video):
    assert (size_of(str(toy_checkpoint)).context, size_of(str(toy_checkpoint)).per_frame) == (500, 16)
    chat = load_chat(str(toy_checkpoint), placement("cpu", "float32"))
    assert type(chat.model) is toy.ToyForVideo and chat.context == 500
    small = ("--frames", 8, "--max-new-tokens", 4)
    done = dycoke("ask", video, "What is it?", "--model", toy_checkpoint, *small)
    assert (done.code, done.err) == (0, "") and "dycoke: 8 frames" in done.out
    done = dycoke("ask", video, "What is it?", "--model", toy_checkpoint, "--method", "full", "--frames", 32)
    assert done.code == 2 and "fills the 500 tokens" in done.complaint


def test_lmms_eval_and_experiments_have_it(toy):
    assert lmms_eval_models()["toy_in_lmms_eval"] == "toy_family.ToyModel"
    spec = ModelSpec("toy_in_lmms_eval", "anything", {"window": 77})
    assert sizes_in({"num_hidden_layers": 3}, spec) == Sizes(layers=3, context=77)
    with pytest.raises(ValueError, match=r"id 'other': expected one of llava_onevision, .*, toy_in_lmms_eval"):
        ModelSpec("other", "anything")


def test_refusals_name_it(toy, toy_checkpoint):
    with pytest.raises(ValueError, match=r"no adapter for Linear; supported: .*, toy_family.ToyForVideo"):
        adapter_for(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"no videos can be given to Linear; supported: .*, toy_family.ToyForVideo"):
        requests_of(nn.Linear(2, 2))
    tiny.edit_config(toy_checkpoint, architectures=["Other"])
    with pytest.raises(ValueError, match=r"is a model of architecture Other; supported: .*, ToyForVideo"):
        load_chat(str(toy_checkpoint), placement("cpu", "float32"))


def test_it_is_gone_behind_the_test(toy_checkpoint):
    assert MODULE not in sys.modules
    with pytest.raises(ValueError, match="is a model of architecture ToyForVideo; supported: LlavaQwenForCausalLM, "):
        size_of(str(toy_checkpoint))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.adapter)
def test_every_part_is_where_the_table_says(family):
    parts = {"adapter": ["ADAPTER"], "requests": ["REQUESTS"], "chat": ["load", "lengths"], "sizes": ["sizes"]}
    for part, names in parts.items():
        if getattr(family, part) is not None:
            assert set(names) <= set(vars(importlib.import_module(getattr(family, part))))
    for name in family.supported:
        home, cls = name.split(" ")[0].rsplit(".", 1)
        bases = getattr(importlib.import_module(home), cls).__mro__
        assert family.classes[0] in [base.__name__ for base in bases] or cls in family.classes


@pytest.mark.slow
def test_the_classes_for_lmms_eval_are_there():
    pytest.importorskip("lmms_eval")
    for path in lmms_eval_models().values():
        module, cls = path.rsplit(".", 1)
        assert isinstance(getattr(importlib.import_module(module), cls), type)


def test_a_class_of_another_package_with_the_name_is_of_no_family():
    stranger = type("LlavaMetaForCausalLM", (nn.Module,), {"__module__": "elsewhere.model"})
    assert family_of(stranger()) is None


def test_an_unknown_id_is_refused():
    with pytest.raises(ValueError, match="id 'nope': expected one of llava_onevision, llava_vid, dycoke_hf"):
        sizes_in({}, SimpleNamespace(id="nope", pretrained="x", args={}))


def test_only_the_table_names_the_classes_of_families():
    """Outside of the folders of families; the benchmarks and the embedded model build ones of their own."""
    root = Path(families.__file__).resolve().parents[1]
    names = ("LlavaMetaForCausalLM", "LlavaOnevisionForConditionalGeneration", '"llava_onevision"', '"dycoke_hf"')
    skipped = (root / "families", root / "bench", root / "nano", root / "engine")
    found = [
        f"{file.relative_to(root)}: {name}"
        for file in sorted(root.rglob("*.py"))
        if not any(file.is_relative_to(folder) for folder in skipped)
        for name in names
        if name in file.read_text()
    ]
    assert found == ["eval/models/dycoke_hf.py: LlavaOnevisionForConditionalGeneration"]  # its docstring
