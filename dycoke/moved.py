"""Names that modules had before they moved into rooms: they go on working for one release, with a warning.

`import dycoke` installs a finder that takes an old name for the new module, the very same object, also for `python -m`
and for entry points. Where a package stands under an old name today, the package hands on the names of that module.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

# (Old package, new package) -> modules, as old=new where the name has changed as well.
_ROOMS = {
    ("dycoke", "dycoke"): "adapters=families shapes=model_shape",
    ("dycoke", "dycoke.kv_cache"): "cache=request cache_layer=layer sections=columns entries=device_store "
    "host_cache=host_store aside=side_stream",
    ("dycoke", "dycoke.lab"): "interrupts command_group",
    ("dycoke", "dycoke.report"): "usage resident=peak_memory",
    ("dycoke", "dycoke.stages"): "attention",
    ("dycoke", "dycoke.text"): "brief visible bounded_yaml",
    ("dycoke.adapters", "dycoke"): "loader=keywords",
    ("dycoke.adapters", "dycoke.families"): "base language_model llava",
    ("dycoke.adapters", "dycoke.families.llava_onevision"): "hf_llava_onevision=adapter hf_prompt=prompt shortened",
    ("dycoke.adapters", "dycoke.stages"): "arguments masks decoding=decode inside inside_stage=inside "
    "pooling_head tower",
    ("dycoke.ask", "dycoke.families"): "chat",
    ("dycoke.ask", "dycoke.families.llava"): "llava_chat=chat",
    ("dycoke.ask", "dycoke.families.llava_onevision"): "hf_chat=chat",
    ("dycoke.ask", "dycoke.offline"): "answer",
    ("dycoke.ask", "dycoke.video"): "video=frames",
    ("dycoke.bench", "dycoke.bench"): "rounds=timing",
    ("dycoke.bench", "dycoke.lab"): "record",
    ("dycoke.bench", "dycoke.bench.compress"): "check compress_methods=methods",
    ("dycoke.bench", "dycoke.bench.decode"): "decode_attention=attention decode_check=check decode_memory=memory "
    "decode_model=model decode_setting=setting decode_step=step decode_tables=tables",
    ("dycoke.bench", "dycoke.bench.engine"): "engine_answer=answer engine_batch=batch engine_ceilings=ceilings "
    "engine_cost=cost engine_decode=decode engine_frames=frames engine_memory=memory engine_model=model "
    "engine_parity=parity engine_setting=setting engine_static=static engine_tables=tables engine_versions=versions "
    "plots",
    ("dycoke.bench", "dycoke.bench.kernels"): "kernels_layers=layers kernels_plans=tilings kernels_setting=setting "
    "kernels_tables=tables kernels_tune=tune",
    ("dycoke.bench", "dycoke.bench.video"): "video_clips=clips video_process=process",
    ("dycoke.engine", "dycoke.engine"): "engine=buckets put_on=install served=eligible plain=hooks joined=weights "
    "padded=template",
    ("dycoke.engine", "dycoke.engine.prefill"): "forwards language_prefill=language vision pooling rows chunks=rows "
    "sdpa=rows",
    ("dycoke.engine", "dycoke.families"): "requests",
    ("dycoke.engine", "dycoke.families.llava"): "llava_requests=requests",
    ("dycoke.engine", "dycoke.families.llava_onevision"): "hf_requests=requests",
    ("dycoke.engine", "dycoke.offline"): "offline=generate batches answers",
    ("dycoke.engine", "dycoke.video"): "frames=pixels routes",
    ("dycoke.eval", "dycoke.eval.launch"): "sweep progress worker launching=command dying=parent_death processes",
    ("dycoke.eval", "dycoke.eval.models"): "manifest answering generation arguments llava_model=llava llava_prompts "
    "onevision=llava_onevision vid=llava_vid hf=dycoke_hf encoder_cache placing=place zero3",
    ("dycoke.eval", "dycoke.eval.report"): "rows=results numbers main_table efficiency_table "
    "differences=difference_table tables=table table_formats foot=footnotes plots bootstrap published agreement "
    "duration",
    ("dycoke.eval", "dycoke.eval.runs"): "experiment method_rows specs values folder samples evaluate scoring "
    "judging=judge scored=sample_scores words=word_f1 lmms_tasks job fit shipped",
    ("dycoke.eval", "dycoke.lab"): "figures lines=jsonl cost shards=ranks",
    ("dycoke.nano", "dycoke.nano.generator"): "splits",
    ("dycoke.ops", "dycoke.ops"): "processors=device",
    ("dycoke.ops", "dycoke.ops.attend"): "sparse_decode sparse_decode_triton sparse_decode_kernels choose "
    "choose_triton similarity=choose similarity_triton=choose_triton host_fetch host_fetch_triton last_row",
    ("dycoke.ops", "dycoke.ops.layer"): "norms=fused norms_triton=fused_triton silu_mul=fused "
    "silu_mul_triton=fused_triton rotary rotary_triton rotary_tables=rotary_step "
    "rotary_tables_triton=rotary_step_triton rotary_write=rotary_step rotary_write_triton=rotary_step_triton "
    "skinny_linear skinny_linear_triton "
    "skinny_linear_kernels greedy greedy_triton",
    ("dycoke.ops", "dycoke.ops.tokens"): "temporal_merge temporal_merge_triton segments cluster rank arrange=rank "
    "going_on=survivors diverse diverse_triton",
    ("dycoke.ops", "dycoke.methods"): "absorb=prumerge adaptive_merge=dycoke_adaptive anchors=fastvid "
    "apportion=vidcom2 fold=holitom runs=framefusion temporal_trees=flashvid",
}

# Functions of dycoke.budget that one method uses -> where that method has them, as old=new as above.
BUDGET = {
    "dycoke.bases.dynamic_pruning": "kept_visual",
    "dycoke.methods.dycoke": "official_count=released_count official_windows=released_windows",
    "dycoke.methods.fastvid": "anchor_counts llava_video_counts",
    "dycoke.methods.flashvid": "flashvid_per_frame=kept_per_frame share_out",
    "dycoke.methods.framefusion": "framefusion_ratio=drop_ratio",
    "dycoke.methods.holitom": "holitom_ratio=kept_of_left holitom_bound=most_tokens",
    "dycoke.methods.pdrop": "decimal_power",
    "dycoke.methods.prumerge": "outlier_tokens spacing_step",
    "dycoke.methods.prunevid": "prunevid_clusters=clusters_of prunevid_bound=most_tokens",
    "dycoke.methods.sparsevlm": "SPARSEVLM_LISTS=LISTS sparsevlm_shares=shares_of sparsevlm_published=published_shares "
    "stage_of=left_of",
    "dycoke.methods.visionzip": "dominant_tokens",
}


def _pair(old: str, new: str, name: str) -> tuple[str, str]:
    before, _, after = name.partition("=")
    return f"{old}.{before}", f"{new}.{after or before}"


MOVED: dict[str, str] = dict(_pair(*rooms, name) for rooms, names in _ROOMS.items() for name in names.split())
"""Old name of a module -> its name today."""


class _Loader:
    """Loads an old name: what then stands under it is the module of the new one."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(_message(module.__name__, self._new), DeprecationWarning, stacklevel=2)
        found = sys.modules[module.__name__] = import_module(self._new)
        if hasattr(found, "__path__"):
            vars(found).setdefault("__getattr__", _modules_of(module.__name__, found))

    def get_code(self, name: str) -> CodeType | None:
        """What `python -m` runs. Its warning is one of the command's own, which are the ones that Python shows."""
        warnings.warn_explicit(_message(name, self._new), DeprecationWarning, "python -m", 1, module="__main__")
        return find_spec(self._new).loader.get_code(self._new)


class Finder:
    """Finds the old names, ahead of Python's own finders, which would load a module of a moved package once more."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        new = MOVED.get(name)
        if new is None and name.rpartition(".")[0] in MOVED:  # what the old package did not have
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if new is None:
            return None
        found = find_spec(new)
        return ModuleSpec(name, _Loader(new), origin=None if found is None else found.origin)


def install() -> None:
    """Have Python find the old names. Doing so twice does nothing."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def names_of(package: str, module: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package that stands where `module` stood: the public names of that module, with a warning.

    Not those of the package's own modules, such as run.
    """

    def handed_on(name: str) -> Any:
        if not name.startswith("_") and find_spec(f"{package}.{name}") is None:
            found = import_module(module)
            if hasattr(found, name):
                warnings.warn(_message(f"{package}.{name}", f"{module}.{name}"), DeprecationWarning, stacklevel=2)
                return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return handed_on


def _modules_of(old: str, package: ModuleType) -> Callable[[str], Any]:
    """A `__getattr__` for a package with an old name: `from old import name` asks it for modules that are elsewhere."""

    def handed_on(name: str) -> Any:
        module = f"{old}.{name}"
        if module not in MOVED:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        warnings.warn(_message(module, MOVED[module]), DeprecationWarning, stacklevel=2)
        setattr(package, name, import_module(MOVED[module]))
        return getattr(package, name)

    return handed_on


def functions_of(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module whose functions have moved: where they are today, with a warning."""
    pairs = dict(_pair(module, home, name) for home, names in homes.items() for name in names.split())

    def handed_on(name: str) -> Any:
        old = f"{module}.{name}"
        if old not in pairs:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(_message(old, pairs[old]), DeprecationWarning, stacklevel=2)
        home, _, today = pairs[old].rpartition(".")
        return getattr(import_module(home), today)

    return handed_on


def _message(old: str, new: str) -> str:
    return f"{old} has moved to {new}; the old name goes with the next release"
