"""What else is done with a model: losses, other numbers, vocabularies, checkpoints, configs, hooks, printing."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.conformance.call import ONE_OF_EACH, call
from tests.conformance.cases import Case, cache_of


# Losses and gradients.
def _labels(case: Case) -> torch.Tensor:
    labels = case.inputs["input_ids"].clone()
    return labels.masked_fill(labels < 0, 7) if case.family == "llava" else labels


def _gradients(case: Case, **options: Any) -> Any:
    case.model.zero_grad()
    out = case.forward(labels=_labels(case), **options)
    out.loss.backward()
    grads = {name: p.grad.clone() for name, p in case.model.named_parameters() if p.grad is not None}
    case.model.zero_grad()
    return [out.loss.detach(), out.logits.detach(), dict(sorted(grads.items()))]


@call()
def labels(case: Case) -> Any:
    return _gradients(case)


@call(changes=True, families=ONE_OF_EACH)
def training(case: Case) -> Any:
    case.model.train()
    plain = _gradients(case)
    case.model.gradient_checkpointing_enable()
    return [plain, _gradients(case)]


# Other numbers and devices of a model.
@call(changes=True, tolerance=0.1, families=ONE_OF_EACH)
def in_bfloat16(case: Case) -> Any:
    case.model.bfloat16()
    return [case.forward().logits.float(), case.step(cache_of(case.forward())).logits.float()]


@call(changes=True, tolerance=0.02, families=ONE_OF_EACH)
def in_half(case: Case) -> Any:
    case.model.half()
    return case.forward().logits.float()


@call(tolerance=0.1, families=ONE_OF_EACH)
def under_autocast(case: Case) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return case.forward().logits.float()


@call()
def in_inference_mode(case: Case) -> Any:
    with torch.inference_mode():
        cache = cache_of(case.forward())
        return [case.step(cache).logits.clone()]


@call(changes=True, families=ONE_OF_EACH)
def other_sizes_of_the_vocabulary(case: Case) -> Any:
    size, out = case.model.get_input_embeddings().num_embeddings, []
    for new in (size + 3, size):
        torch.manual_seed(0)
        case.model.resize_token_embeddings(new, mean_resizing=False)
        out.append(case.forward().logits[..., :size])
    case.model.tie_weights()
    return out


@call(families=ONE_OF_EACH)
def saved_and_loaded(case: Case) -> Any:
    """Nothing of the method goes into a checkpoint."""
    with TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        files = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
        again = type(case.model).from_pretrained(folder).eval()
    return [files, sorted(case.model.state_dict()), again(**case.inputs).logits, str(case.model.generation_config)]


@call()
def what_a_config_says(case: Case) -> Any:
    own = case.model.config
    parts = [own, own.get_text_config(), case.language_model.config]
    return [[each._attn_implementation for each in parts], own.to_json_string(), copy.deepcopy(own).to_dict()]


@call()
def hooks_of_a_user(case: Case) -> Any:
    seen = []
    handles = [
        layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in case.language_model.layers
    ]
    case.forward()
    case.generate()
    for handle in handles:
        handle.remove()
    return seen[: len(case.language_model.layers)]


@call(changes=True, families=("qwen2",))
def adapters_of_weights(case: Case) -> Any:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.inject_adapter_in_model(config, case.model)
    return [case.forward().logits, case.generate()]


# What is refused while the cache is pruned, and only then.
@call(refused={"keep_all": "attn_implementation='eager' was set"}, changes=True, families=ONE_OF_EACH)
def attention_maps(case: Case) -> Any:
    case.model.set_attn_implementation("eager")
    return case.forward(output_attentions=True).attentions


@call(families=("qwen2",))
def printed(case: Case) -> Any:
    said = io.StringIO()
    print(case.model, file=said)
    return said.getvalue()
