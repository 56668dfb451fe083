"""The way from the stock `generate` of a model that carries a method to the engine, and back to the stock loop."""

from __future__ import annotations

import inspect
import weakref
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from dycoke.adapters.arguments import CACHE_NAMES
from dycoke.engine.engine import Engine
from dycoke.engine.forwards import FastForwards
from dycoke.engine.loop import Chooser, Emitted, Rules, decode
from dycoke.engine.plain import hooked
from dycoke.engine.served import passed_by, refusal
from dycoke.report import Recorder

# Settings of `generate` that ask for another loop, and what they are where they do not.
_ONE_PATH = {
    "num_beams": 1,
    "use_cache": True,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "prompt_lookup_num_tokens": None,
    "prefill_chunk_size": None,
    "cache_implementation": None,
    "penalty_alpha": None,
    "guidance_scale": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "stop_strings": None,
    "is_assistant": False,
}
_ARGUMENTS = ("assistant_model", "custom_generate", "synced_gpus", "negative_prompt_ids", *CACHE_NAMES)
_STREAMED = "streamer"


class EngineGenerate:
    """Stands in for a model's `generate`: the engine where it can, the stock loop, and why, where it cannot.

    Holds the model weakly, as everything does that is put on one.
    """

    def __init__(self, model: nn.Module, language_model: nn.Module, engine: Engine, recorder: Recorder) -> None:
        self._model, self._language_model = weakref.ref(model), weakref.ref(language_model)
        self._engine, self._recorder = engine, recorder
        self._look(model, language_model)

    def _look(self, model: nn.Module, language_model: nn.Module) -> None:
        """Find out, once for the weights a model has now, what takes too long to find out at every call."""
        self._unserved = refusal(language_model, model.get_output_embeddings())
        self._passed_by = passed_by(language_model)
        self._fast = FastForwards(model)

    def install(self, undo: ExitStack) -> None:
        """Become the model's `generate`. An attribute of the instance: `custom_generate` is an argument of a call."""
        model = self._model()
        before = vars(model).get("generate")
        model.generate = self
        undo.callback(_give_back, self._model, before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's own `generate` takes and returns."""
        model = self._model()
        stock = type(model).generate
        reason = self._refusal(model, args, kwargs)
        self._recorder.loop = f"stock: {reason}" if reason else "engine"
        if reason:
            return stock(model, *args, **kwargs)
        streamer = kwargs.get(_STREAMED)

        def decoding(
            model: nn.Module,
            input_ids: Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **model_kwargs: Any,
        ) -> Tensor:
            # transformers hands its streamer to its own loops alone.
            rules = _rules(input_ids, logits_processor, stopping_criteria, generation_config)
            return self._generate(model, input_ids, rules, generation_config, streamer, model_kwargs)

        with self._fast.on():
            return stock(model, *args, **kwargs | {"custom_generate": decoding})

    def _refusal(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> str:
        """Why this call takes the stock loop, "" if it does not."""
        language_model = self._language_model()
        replaced = passed_by(language_model) != self._passed_by  # as adapters of weights do
        if self._engine.moved(language_model, model.get_output_embeddings()) or replaced:
            self._look(model, language_model)
        reason = self._unserved or hooked(self._passed_by)
        if reason or language_model.training:
            return reason or "the model is in training mode"
        if torch.is_autocast_enabled(self._engine.weights.device.type):
            return "autocast is on"
        asked = dict(zip(inspect.signature(type(model).generate).parameters, (model, *args), strict=False)) | kwargs
        for name in _ARGUMENTS:
            if asked.get(name) is not None and asked[name] is not False:
                return name
        given = [each for each in (asked.get("generation_config"), model.generation_config) if each is not None]
        for name, usual in _ONE_PATH.items():
            value = asked.get(name)
            for config in given:
                value = getattr(config, name, None) if value is None else value
            if value is not None and value != usual:
                return f"{name}={value!r}"
        return ""

    def _generate(
        self, model: nn.Module, input_ids: Tensor, rules: Rules, config: Any, streamer: Any, kwargs: dict[str, Any]
    ) -> Tensor:
        """Ids [B, S + n], as transformers' own loops return them."""
        room = rules.criteria.max_length - input_ids.shape[1]
        engine = self._engine
        engine.begin(room)
        try:
            with engine.device():
                emitted = Emitted(rules, input_ids, room, None if streamer is None else streamer.put)
                outputs = GenerationMixin._prefill(model, input_ids, config, kwargs, is_first_iteration=True)
                bucket = engine.prefilled()
                steps = decode(bucket, outputs.logits[:, -1], Chooser(rules, input_ids, room), emitted, room)
            self._recorder.counted(bucket.template.use if engine.counts else None)
            self._recorder.decoded(steps)
        finally:
            engine.end()
        if streamer is not None:
            streamer.end()
        return emitted.ids.to(input_ids.device, copy=True)


def _rules(input_ids: Tensor, processors: Any, criteria: Any, config: Any) -> Rules:
    ends, pad = config._eos_token_tensor, _pad_id(config)
    if not any(hasattr(each, "eos_token_id") for each in criteria):
        ends = None
    return Rules(processors, bool(config.do_sample), None if ends is None else ends.to(input_ids.device), pad, criteria)


def _pad_id(config: Any) -> int:
    """The id that transformers fills ended rows up with: its own tensor of it would have to be waited for."""
    if config.pad_token_id is not None:
        return int(config.pad_token_id)
    end = config.eos_token_id
    return int(end[0] if isinstance(end, list | tuple) else end or 0)


def _give_back(model: weakref.ref, before: Any) -> None:
    if model() is None:
        return
    if before is None:
        del model().generate
    else:
        model().generate = before
