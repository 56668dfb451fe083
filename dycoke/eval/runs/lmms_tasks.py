"""Tasks of lmms-eval by name: found, their data loaded, and taken apart into the leaves of a group."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager, get_task_dict
from tenacity import RetryError

TASKS = Path(__file__).parents[1] / "tasks"  # those this package brings along


def task_manager(model_id: str, folders: Iterable[str] = ()) -> TaskManager:
    """lmms-eval's tasks, ours, and those in `folders`; prompts may depend on the model's id.

    Raises FileNotFoundError for a folder that is not there.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"include_path {folder}: no such folder")
    return TaskManager("ERROR", include_path=[str(TASKS), *folders], model_name=model_id)


def load_task(name: str, manager: TaskManager) -> list[Task]:
    """The task, or those of a group, with their data.

    Raises ValueError for a name there is no task of, for data that cannot be loaded, and for a task that asks for
    anything else than a generated answer.
    """
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `python -m lmms_eval tasks list` lists them"
        raise ValueError(f"task {name!r}: lmms-eval has no such task{hint}")
    try:
        leaves = list(_leaves(get_task_dict([name], manager, "simple")))
    except RetryError as error:  # lmms-eval tries several times to download
        cause = error.last_attempt.exception()
        raise ValueError(f"task {name}: its data set cannot be loaded: {_line(cause)}") from cause
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"task {name}: cannot be loaded: {_line(error)}") from error
    for task in leaves:
        if task.config.output_type != "generate_until":
            raise ValueError(
                f"task {name}: its output_type is {task.config.output_type}; a sweep takes tasks whose answers are "
                "generated (generate_until)"
            )
    return leaves


def default_home() -> None:
    """Name Hugging Face's folder, as the tasks expect; it is where the hub's own library would look."""
    os.environ.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))


def _leaves(tasks: Mapping[Any, Any]) -> Iterable[Task]:
    for value in tasks.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif value is not None:
            yield value[1] if isinstance(value, tuple) else value


def _line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
