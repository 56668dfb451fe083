"""A Qwen2 language model with random weights, a prompt for it, and its decode loop under a method or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import Cache, DynamicCache

import dycoke
from dycoke.bases.dynamic_pruning import DynamicPruning
from dycoke.bench.decode.setting import TEXT, Setting
from dycoke.families.language_model import LanguageModelAdapter
from dycoke.kv_cache.request import DecodeRequest
from dycoke.model_shape import Shape
from dycoke.report import Recorder
from dycoke.stages.decode import DecodeStage
from dycoke.types import Plan

# Queries are scaled by this: a random model attends to everything alike, and errors in what it reads would not show.
SHARPNESS = 3.0


def build_model(setting: Setting, device: str, seed: int = 0) -> nn.Module:
    """The model with random weights, made on its device."""
    config = language_config(setting.model, ends=None)
    return make_random(Qwen2ForCausalLM, config, setting.torch_dtype, lambda name: torch.device(device), seed)


def language_config(shape: Shape, ends: int | None) -> Qwen2Config:
    """The configuration of a language model of a shape. ends: the id that ends an answer, None where nothing does."""
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=0,
    )


def make_random(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    dtype: torch.dtype,
    place: Callable[[str], torch.device],
    seed: int = 0,
) -> nn.Module:
    """A model of transformers whose weights are drawn where `place(name)` puts each.

    Normal ones that keep the variance, so that activations stay finite. Buffers are what the model computes.
    """
    model = skeleton(model_class, config)
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            device = place(name)
            generator = generators.setdefault(device, torch.Generator(device).manual_seed(seed))
            spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            gain = SHARPNESS if "q_proj" in name else 1.0
            mean = float("norm" in name and name.endswith("weight"))
            drawn = torch.empty(weight.shape, dtype=dtype, device=device)
            drawn.normal_(mean=mean, std=gain * spread, generator=generator)
            set_weight(model, name, drawn)
    finish(model, place)
    return model


def skeleton(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> nn.Module:
    """A model for inference whose weights are on the meta device; its buffers are real, and on the CPU."""
    with init_empty_weights(include_buffers=False):
        return model_class(config).eval()


def set_weight(model: nn.Module, name: str, weight: Tensor) -> None:
    """Let a weight of the model be this tensor, which is not copied."""
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, nn.Parameter(weight, requires_grad=False))


def finish(model: nn.Module, place: Callable[[str], torch.device]) -> None:
    """Tie what the config ties, and move the buffers, which are not weights, to where `place(name)` puts each."""
    model.tie_weights()
    for name, buffer in list(model.named_buffers()):
        path, _, last = name.rpartition(".")
        model.get_submodule(path)._buffers[last] = buffer.to(place(name))


@dataclass(frozen=True)
class Prompt:
    """embeds [1, S, D], and which slots are visual, bool [1, S]: text stands before them and behind."""

    embeds: Tensor
    visual: Tensor


def make_prompt(model: nn.Module, visual: int, seed: int = 1) -> Prompt:
    """A random prompt of `visual` visual tokens among TEXT others."""
    weight = model.lm_head.weight
    generator = torch.Generator(weight.device).manual_seed(seed)
    shape = (1, visual + TEXT, weight.shape[1])
    embeds = torch.randn(shape, generator=generator, device=weight.device, dtype=weight.dtype)
    column = torch.arange(shape[1], device=weight.device)
    before = TEXT // 2
    return Prompt(embeds, ((column >= before) & (column < before + visual))[None])


class WholeCache(LanguageModelAdapter):
    """Our cache and attention with nothing pruned: what a method's own cost is measured against."""

    def put_on(self, undo: ExitStack) -> None:
        model = self._model()
        self.recorder = Recorder("full", [model.lm_head.weight.device])
        self._stage = DecodeStage(self.language_model(model), None)
        self._stage.install(undo)
        self.hook(model, undo)

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> None:
        return None


STOCK, FULL = "stock", "full"


@contextmanager
def running(model: nn.Module, method: str | DynamicPruning, prompt: Prompt) -> Iterator[dycoke.Run | None]:
    """The model under a method: STOCK leaves it alone, FULL reads all of our cache."""
    if isinstance(method, DynamicPruning):
        with dycoke.attach(model, Plan(decode=method), visual=prompt.visual, engine="off") as run:
            yield run
        return
    with ExitStack() as undo:
        if method == FULL:
            WholeCache(model).put_on(undo)
        yield None


class Loop:
    """Greedy decoding on one cache: the prefill, then a step at a time. Nothing of a step is read by the host.

    cache: one that may hold columns already, which the prompt then follows; None for a fresh one that grows. room:
    steps that will ever run. Make it while the model runs under its method; `step` needs that too, its replay from a
    graph does not.
    """

    def __init__(self, model: nn.Module, prompt: Prompt, cache: Cache | None, room: int) -> None:
        self._model = model
        self.cache = DynamicCache(config=model.config) if cache is None else cache
        held = int(self.cache.get_seq_length())
        out = model(inputs_embeds=prompt.embeds, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.logits = out.logits[:, -1]
        self.ids = self.logits.argmax(-1, keepdim=True)
        self.position = torch.full_like(self.ids, held + prompt.embeds.shape[1] - 1)
        if self.request is not None:
            self.request.reserve(room)

    @property
    def request(self) -> DecodeRequest | None:
        """Request of our cache; None for a stock one."""
        return getattr(self.cache.layers[0], "request", None)

    def step(self) -> Tensor:
        """One token per row: ids -> logits [B, vocabulary] -> ids."""
        self.position.add_(1)
        out = self._model(input_ids=self.ids, position_ids=self.position, past_key_values=self.cache, use_cache=True)
        logits = out.logits[:, -1]
        self.ids.copy_(logits.argmax(-1, keepdim=True))
        return logits
