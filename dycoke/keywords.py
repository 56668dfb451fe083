"""The keywords by which `load_pretrained_model` and lmms-eval's --model_args choose a method for a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dycoke.attach import Run, apply
from dycoke.families.requests import requests_of
from dycoke.options import parse_value
from dycoke.plans import choose, read_choice
from dycoke.types import Method, Plan

logger = logging.getLogger(__name__)

_PASSED_ON = {f"dycoke_{name}": name for name in ("k", "l", "p", "variant", "decode", "refresh", "seed", "dp_cache")}
_TOKENS = "dycoke_num_tokens_per_frame"
_WAYS = ("dycoke", "method", "plan")


@dataclass(frozen=True)
class Chosen:
    """A method chosen by loader keywords; tokens_per_frame is what the caller expects of the model, None if unsaid."""

    method: Method | Plan
    tokens_per_frame: int | None = None

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if the frames of a model have another number of tokens than the caller expects."""
        if self.tokens_per_frame is not None:
            _check_tokens(model, self.tokens_per_frame)

    def put_on(self, model: nn.Module) -> Run:
        """Put the method on a model. Raises what `check` and `apply` raise."""
        self.check(model)
        return apply(model, self.method)


def choose_method(options: Mapping[str, Any]) -> Chosen | None:
    """The method that loader keywords describe, before any weights are read; None if they ask for none.

    dycoke=True is the paper, which the defaults of `dycoke` are; dycoke_k, dycoke_l, dycoke_p, dycoke_variant,
    dycoke_decode, dycoke_refresh, dycoke_seed and dycoke_dp_cache change it, and dycoke_num_tokens_per_frame is to be
    compared with the model's own layout; dycoke=False switches all of that off.
    method is a registered name, "name,k=0.5", or a name beside a dict method_options; plan is a Plan, a method, a
    mapping as `build_plan` takes it, or the path of a .yaml or .yml file that holds one.
    image_token_start_index is accepted and ignored: visual tokens are found without it. Texts as lmms-eval passes
    them ("True", "0.7") are read as their values.
    Raises ValueError for unknown or contradictory keywords, and what `choose` raises.
    """
    options = {name: parse_value(value) if _is_text(name, value) else value for name, value in options.items()}
    if options.pop("image_token_start_index", None) is not None:
        logger.warning("image_token_start_index is ignored: visual tokens are found by their place in the prompt")
    asked = _asked(options)
    ours = {name: value for name, value in options.items() if name.startswith("dycoke_")}
    if ours and asked != "dycoke" and options.get("dycoke") is not False:
        raise ValueError(f"{', '.join(sorted(ours))} given without dycoke=True; add it, or leave them out")
    if options.get("method_options") is not None and asked != "method":
        raise ValueError("method_options given without method=...; name the method they belong to")
    if asked is None:
        return None
    if asked == "plan":
        return Chosen(_planned(options["plan"]))
    if asked == "method":
        return Chosen(_named(options["method"], options.get("method_options")))
    chosen = {option: ours[name] for name, option in _PASSED_ON.items() if ours.get(name) is not None}
    return Chosen(choose({"name": "dycoke", **chosen}), ours.get(_TOKENS))


def _is_text(name: str, value: Any) -> bool:
    return isinstance(value, str) and (name.startswith("dycoke") or name == "image_token_start_index")


def _asked(options: Mapping[str, Any]) -> str | None:
    """Which of the three ways names the method, after checking that only one does and that every key is known."""
    accepted = (*_WAYS, "method_options", *_PASSED_ON, _TOKENS, "image_token_start_index")
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; accepts: {', '.join(accepted)}")
    if not isinstance(options.get("dycoke"), bool | None):
        raise ValueError(f"dycoke={options['dycoke']!r}: expected True or False")
    ways = [name for name in _WAYS if options.get(name) is not None and options[name] is not False]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} given; each of them chooses a method: leave one")
    return ways[0] if ways else None


def _planned(plan: Any) -> Method | Plan:
    is_file = isinstance(plan, str | Path) and Path(plan).suffix in (".yaml", ".yml")
    if not (is_file or isinstance(plan, Mapping | Plan | Method)) or isinstance(plan, type):
        raise ValueError(
            f"plan={plan!r}: expected a dycoke.Plan or a method; names go to method=, and a plan in YAML is a mapping "
            "or the path of a .yaml file"
        )
    return choose({"plan": plan})


def _named(method: Any, extra: Any) -> Method | Plan:
    if not isinstance(method, str):
        raise ValueError(f"method={method!r}: expected a name, such as 'dycoke' or 'dycoke,k=0.5'; objects go to plan=")
    if extra is not None and not isinstance(extra, Mapping):
        raise ValueError(f"method_options={extra!r}: expected a dict of options")
    return read_choice(method).beside(extra or {}, f"method={method!r}", "method_options").build()


def _check_tokens(model: nn.Module, expected: Any) -> None:
    """Raise ValueError unless the model makes `expected` tokens of a frame."""
    per_frame = requests_of(model).per_frame
    if expected != per_frame:
        mode = getattr(model.config, "mm_spatial_pool_mode", None)
        pooled = f" (mm_spatial_pool_mode={mode!r})" if mode else ""
        raise ValueError(
            f"{_TOKENS}={expected!r}: this model makes {per_frame} tokens of a frame{pooled}; pass {per_frame} or "
            "leave it out"
        )
