"""The experiments that come with the project, by name."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]
# An installed package has them within itself, a checkout beside it.
CONFIGS = _PACKAGE / "eval_configs" if (_PACKAGE / "eval_configs").is_dir() else _PACKAGE.parent / "eval_configs"


def experiment_file(experiment: str) -> Path:
    """The YAML file of an experiment: a path, or the name of one that is shipped, such as smoke.

    Raises ValueError for a name of neither. A file or folder of that name goes first.
    """
    path = Path(experiment)
    if path.name != experiment or path.suffix in (".yaml", ".yml") or path.exists():
        return path
    shipped = CONFIGS / f"{experiment}.yaml"
    if not shipped.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml"))) or "none"
        raise ValueError(f"{experiment}: no such file, and no experiment that is shipped: {names}")
    return shipped
