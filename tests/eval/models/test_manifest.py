"""The entry point of lmms-eval, whoever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from importlib.metadata import EntryPoint
import dycoke.eval.models.manifest
from lmms_eval.models import registry_v2
found = EntryPoint("dycoke", "dycoke.eval.models.manifest:manifests", "lmms_eval.models").load()()
print(*sorted(each.model_id for each in found), all(type(each) is registry_v2.ModelManifest for each in found))
"""


@pytest.mark.slow
def test_importing_the_entry_point_first_leaves_it_whole():
    """Importing lmms-eval's registry loads all entry points, so ours must not need it to be imported itself."""
    pytest.importorskip("lmms_eval")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["dycoke_hf", "llava_onevision", "llava_vid", "True"]
    assert "partially initialized" not in done.stderr
