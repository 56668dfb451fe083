"""Torch that is imported when something of it is first used, so that a command refuses wrong options before that.

Importing torch takes seconds. Files of methods name it, but which methods there are and what their options may be is
known without it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_LOADING = RLock()


class _Late(ModuleType):
    """A module that has not been run: the first attribute that is missing runs it, in place."""

    def __getattr__(self, name: str) -> Any:
        with _LOADING:
            if "__path__" not in vars(self):
                self.__path__ = self.__spec__.submodule_search_locations
                self.__spec__.loader.exec_module(self)
                self.__class__ = ModuleType
            elif type(self) is _Late:  # the module itself asks, while it is run
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


class _There:
    """Finds and loads a module of torch that came along while Python was asking torch where it is: that very module.

    `import torch.cuda` as the first use of torch runs torch, which imports torch.cuda, behind the point where Python
    looks whether it has it already. It would run it a second time.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = sys.modules.get(name) if name.startswith("torch.") and target is None else None
        if found is None:
            return None
        loader = _There(found)
        found.__spec__ = None  # or Python would take that one, with its own loader
        return ModuleSpec(name, loader)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def put_off_torch() -> None:
    """Let `import torch` cost nothing from now on, until something of torch is used; nothing where it was imported."""
    if "torch" in sys.modules:
        return
    module = module_from_spec(find_spec("torch"))
    module.__class__ = _Late
    del module.__path__  # so that importing a module of the package runs it, too
    sys.modules["torch"] = module
    sys.meta_path.insert(0, _There)
