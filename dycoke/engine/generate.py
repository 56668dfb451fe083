"""The way from the stock `generate` of a model that carries a method to the engine, and back to the stock loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from dycoke.engine.buckets import Engine
from dycoke.engine.eligible import BypassedModules, of_call, of_model, of_prompt
from dycoke.engine.loop import Chooser, Emitted, Rules, decode
from dycoke.engine.prefill.forwards import FastForwards
from dycoke.engine.settings import CheckedGenerate
from dycoke.families.base import FamilyAdapter
from dycoke.report import Recorder
from dycoke.stages.decode import DecodeStage
from dycoke.turns import Turns


class EngineGenerate(CheckedGenerate):
    """Stands in for a model's `generate`: the engine where it can, the stock loop, and why, where it cannot.

    adapter: of the model, whose prefills it hands the engine's sinks to; stage: through which they fill them. pruned:
    the plan prunes the KV cache. ours: hooks that the plan has put on the model.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: FamilyAdapter,
        stage: DecodeStage,
        engine: Engine,
        recorder: Recorder,
        turns: Turns,
        pruned: bool,
        ours: frozenset[int],
    ) -> None:
        super().__init__(model, turns, recorder, pruned)
        self._adapter, self._stage = adapter, stage
        self._engine, self._ours = engine, ours
        self._look(model, adapter.language_model(model))

    def _look(self, model: nn.Module, language_model: nn.Module) -> None:
        """Find out, once for the weights a model has now, what takes too long to find out at every call."""
        self._unserved = of_model(language_model, model.get_output_embeddings())
        self._bypassed = BypassedModules(model, language_model, self._ours)
        self._fast = FastForwards(model)

    def install(self, undo: ExitStack) -> None:
        """An attribute of the instance, for `custom_generate` is an argument of a call."""
        super().install(undo)
        self._recorder.loop = "stock: the model was called without generate"

    def answer(self, inside: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        model, stock = self._model(), self.usual()
        asked = self.checked(inside, args, kwargs)
        reason = "asked inside another request" if inside else self._refusal(model, asked)
        usual, self._recorder.loop = self._recorder.loop, f"stock: {reason}" if reason else "engine"
        try:
            if reason:
                with self._adapter.prefilling(None):
                    return stock(*args, **kwargs)
            with ExitStack() as fast:
                fast.enter_context(self._fast.on())
                decoding = self._decoding(asked.get("streamer"), fast.close)
                return stock(*args, **kwargs | {"custom_generate": decoding})
        finally:
            self._recorder.loop = usual

    def _decoding(self, streamer: Any, slow_down: Callable[[], None]) -> Callable[..., Tensor]:
        """The loop for one call, which transformers prepares as for its own.

        streamer: transformers hands it to its own loops alone. slow_down: takes the fast forwards off, whose hidden
        states of padding are not those of the stock forward.
        """

        def decoding(
            model: nn.Module,
            input_ids: Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **model_kwargs: Any,
        ) -> Tensor:
            room = stopping_criteria.max_length - input_ids.shape[1]
            reason = of_prompt(self._engine, len(input_ids), room, model_kwargs.get("attention_mask"))
            if not reason:
                rules = _rules(logits_processor, stopping_criteria, generation_config, self._engine.weights.device)
                return self._generate(model, input_ids, rules, generation_config, streamer, model_kwargs)
            self._recorder.loop = f"stock: {reason}"
            slow_down()
            prepared = {"logits_processor": logits_processor, "stopping_criteria": stopping_criteria}
            prepared |= {"generation_config": generation_config, "streamer": streamer, **model_kwargs}
            return GenerationMixin._sample(model, input_ids, **prepared)

        return decoding

    def _refusal(self, model: nn.Module, asked: dict[str, Any]) -> str:
        """Why a call with these arguments takes the stock loop, "" if it does not."""
        language_model = self._adapter.language_model(model)
        if self._bypassed.changed(model) or language_model.training or self._unserved:
            self._look(model, language_model)
        if not self._unserved and self._engine.moved(language_model, model.get_output_embeddings()):
            self._look(model, language_model)
        return self._unserved or of_call(model, asked, self._bypassed, self._engine.weights.device)

    def _generate(
        self, model: nn.Module, input_ids: Tensor, rules: Rules, config: Any, streamer: Any, kwargs: dict[str, Any]
    ) -> Tensor:
        """Ids [B, S + n], as transformers' own loops return them."""
        engine = self._engine
        room, prompt = rules.criteria.max_length - input_ids.shape[1], input_ids.to(engine.weights.device)
        intake = engine.admit(room)
        with engine.device():
            emitted = Emitted(rules, prompt, room, None if streamer is None else streamer.put)
            with self._adapter.prefilling(self._stage, intake.sink):
                outputs = GenerationMixin._prefill(model, input_ids, config, kwargs, is_first_iteration=True)
            record = self._recorder.current
            bucket, logits = intake.bucket(), outputs.logits[:, -1].clone(memory_format=torch.contiguous_format)
            del outputs  # whoever asks for the logits of a whole prompt would keep them through the answer
            steps = decode(bucket, logits, Chooser(rules, prompt, room), emitted, room)
        record.cache = bucket.template.use if engine.counts else None
        record.forwards = {part: why for part, why in self._fast.reasons().items() if why}
        if steps:
            self._recorder.decoded(record, steps, emitted.arrival)
        if streamer is not None:
            streamer.end()
        return emitted.ids.to(input_ids.device, copy=True)


def _rules(processors: Any, criteria: Any, config: Any, device: torch.device) -> Rules:
    ends = config._eos_token_tensor
    if not any(hasattr(each, "eos_token_id") for each in criteria):
        ends = None
    ends = None if ends is None else ends.to(device)
    return Rules(processors, bool(config.do_sample), ends, _pad_id(config), criteria)


def _pad_id(config: Any) -> int:
    """The id that transformers fills ended rows up with: its own tensor of it would have to be waited for."""
    if config.pad_token_id is not None:
        return int(config.pad_token_id)
    end = config.eos_token_id
    return int(end[0] if isinstance(end, list | tuple) else end or 0)
