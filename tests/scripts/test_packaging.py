"""What an installed package holds beside its modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_experiments_come_with_the_package(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    shipped = {path.name for path in (tmp_path / "dycoke" / "eval_configs").iterdir()}
    assert shipped == {path.name for path in (ROOT / "eval_configs").iterdir()} and "smoke.yaml" in shipped
    code = "from dycoke.eval.runs.shipped import experiment_file; print(experiment_file('smoke'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.strip() == str(tmp_path / "dycoke" / "eval_configs" / "smoke.yaml")
