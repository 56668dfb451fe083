"""The launchers, with programs on PATH that only note how they were called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TOOLS = ("basename", "bash", "dirname", "env", "sed")

NOTE = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
"""
# Counts GPUs.
PYTHON = """#!/usr/bin/env bash
echo "$GPUS"
exit "${PYTHON_STATUS:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == "show hostnames node[03,07]" ]] && printf 'node03\\nnode07\\n'
"""
# Starts its command once a machine, as srun does.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
for id in 0 1; do SLURM_NODEID=$id "$@" || exit; done
"""

NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node03"}
JOB = {"SLURM_JOB_ID": "41007", "SLURM_JOB_NODELIST": "node[03,07]", "SLURM_JOB_NUM_NODES": "2"}


class Place:
    """A copy of the scripts without an environment beside it, and a PATH of programs that note their calls."""

    def __init__(self, folder: Path) -> None:
        self.root, self.calls_file, self.bin = folder / "the tree", folder / "calls.log", folder / "bin"
        shutil.copytree(SCRIPTS, self.root / "scripts")
        self.bin.mkdir()
        for name, text in (("accelerate", NOTE), ("dycoke", NOTE), ("python3", PYTHON)):
            self.add(name, text)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.file = folder / "my table.yaml"
        self.file.write_text("")

    def add(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        known = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "GPUS": "4"}
        command = [str(self.bin / "bash"), str(self.root / "scripts" / script), *arguments]
        return subprocess.run(command, env=known | environment, capture_output=True, text=True, cwd="/")

    def calls(self, script: str, *arguments: str, **environment: str) -> list[str]:
        done = self.run(script, *arguments, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def launched(call: str) -> tuple[dict[str, str], list[str], str]:
    """Options of `accelerate launch` that have a value, those that have none, and what it is to run."""
    words = call.removeprefix("accelerate launch ").split()
    at = words.index("-m")
    options = words[:at]
    flags = [word for word in options if word == "--multi_gpu"]
    rest = [word for word in options if word != "--multi_gpu"]
    return dict(zip(rest[::2], rest[1::2], strict=True)), flags, " ".join(words[at:])


def test_an_experiment_runs_on_all_gpus_of_a_machine(place):
    calls = place.calls("launch_multi_gpu.sh", str(place.file), "--results", "elsewhere")
    assert calls == [f"dycoke sweep {place.file} --results elsewhere --processes 4"]


def test_or_on_some_of_them(place):
    calls = place.calls("launch_multi_gpu.sh", "--gpus", "3", str(place.file), PYTHON_STATUS="1")
    assert calls == [f"dycoke sweep {place.file} --processes 3"]


@pytest.mark.parametrize(("gpus", "flags"), [("1", []), ("4", ["--multi_gpu"])])
def test_lmms_eval_starts_through_accelerate(place, gpus, flags):
    (call,) = place.calls("launch_multi_gpu.sh", "--", "--model", "llava_vid", "--tasks", "mvbench", GPUS=gpus)
    options, given, command = launched(call)
    assert (options["--num_processes"], options["--num_machines"], given) == (gpus, "1", flags)
    assert options["--main_process_port"] == "0"  # two jobs of a machine do not meet
    assert command == "-m lmms_eval --model llava_vid --tasks mvbench"


def test_an_experiment_on_several_machines(place):
    calls = place.calls("launch_multi_node.sh", str(place.file), "--limit", "8", **NODES)
    assert calls == [
        f"dycoke sweep {place.file} --limit 8 --processes 4 --machines 2 --machine-rank 1 "
        "--main-address node03 --main-port 29500"
    ]


def test_options_come_before_the_environment(place):
    options = ["--nodes", "3", "--node-rank", "0", "--main-address", "n1", "--main-port", "7000", "--gpus", "2"]
    calls = place.calls("launch_multi_node.sh", *options, str(place.file), MASTER_PORT="1", **NODES)
    assert calls == [
        f"dycoke sweep {place.file} --processes 2 --machines 3 --machine-rank 0 --main-address n1 --main-port 7000"
    ]


def test_lmms_eval_on_several_machines_counts_the_processes_of_all(place):
    (call,) = place.calls("launch_multi_node.sh", "--", "--tasks", "mvbench", MASTER_PORT="7001", **NODES)
    options, flags, command = launched(call)
    assert (options["--num_processes"], options["--num_machines"], options["--machine_rank"]) == ("8", "2", "1")
    assert (options["--main_process_ip"], options["--main_process_port"]) == ("node03", "7001")
    assert (flags, command) == (["--multi_gpu"], "-m lmms_eval --tasks mvbench")


def test_slurm_starts_one_launcher_a_machine(place):
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        place.add(name, text)
    job = JOB | {"SLURM_SUBMIT_DIR": str(place.root), "SLURM_CPUS_PER_TASK": "32", "NODE_RANK": "5"}
    start, *sweeps = place.calls("slurm_example.sh", str(place.file), **job)
    assert "--cpus-per-task=32" in start and "--kill-on-bad-exit=1" in start
    assert sweeps == [
        f"dycoke sweep {place.file} --processes 4 --machines 2 --machine-rank {rank} "
        "--main-address node03 --main-port 21007"
        for rank in (0, 1)
    ]


def test_the_environment_of_the_repository_comes_first(place):
    theirs = '#!/usr/bin/env bash\necho "theirs $*" >>"$CALLS"\n'
    place.add("dycoke", theirs, place.root / ".venv" / "bin")
    assert place.calls("launch_multi_gpu.sh", str(place.file))[-1].startswith("theirs sweep")
    place.add("dycoke", theirs.replace("theirs", "named"), place.root / "other" / "bin")
    calls = place.calls("launch_multi_gpu.sh", str(place.file), DYCOKE_VENV=str(place.root / "other"))
    assert calls[-1].startswith("named sweep")


def refused(place: Place, script: str, *arguments: str, code: int = 2, **environment: str) -> str:
    done = place.run(script, *arguments, **environment)
    assert done.returncode == code and not place.calls_file.exists()
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected an experiment file, or -- and arguments of lmms-eval"),
        (["--"], "expected arguments of lmms-eval after --"),
        (["absent.yaml"], "no experiment file absent.yaml"),
        (["--gpu", "3", "FILE"], "unknown option --gpu"),
        (["--gpus"], "--gpus: expected a value"),
        (["--gpus", "0", "FILE"], "--gpus '0': expected an integer of at least 1"),
        (["--gpus", "two", "FILE"], "--gpus 'two': expected an integer of at least 1"),
    ],
)
@pytest.mark.parametrize("script", ["launch_multi_gpu.sh", "launch_multi_node.sh"])
def test_wrong_usage_is_one_line(place, script, arguments, said):
    given = [str(place.file) if each == "FILE" else each for each in arguments]
    assert refused(place, script, *given, **NODES) == f"error: {said}; see --help"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (NODES | {"NNODES": ""}, "how many machines? give --nodes, or set NNODES"),
        (NODES | {"NODE_RANK": ""}, "which machine is this? give --node-rank, or set NODE_RANK"),
        (NODES | {"MASTER_ADDR": ""}, "where is machine 0? give --main-address, or set MASTER_ADDR"),
        (NODES | {"NNODES": "1"}, "--nodes '1': expected an integer of at least 2"),
        (NODES | {"NODE_RANK": "2"}, "--node-rank '2': expected 0 to 1 of 2 machines"),
        (NODES | {"NODE_RANK": "01"}, "--node-rank '01': expected an integer of at least 0"),
        (NODES | {"MASTER_PORT": "0"}, "--main-port '0': expected an integer of at least 1"),
    ],
)
def test_machines_that_do_not_fit_together(place, environment, said):
    assert refused(place, "launch_multi_node.sh", str(place.file), **environment) == f"error: {said}; see --help"


def test_slurm_needs_a_job_and_the_repository(place, tmp_path):
    assert "submit this with sbatch" in refused(place, "slurm_example.sh", str(place.file))
    line = refused(place, "slurm_example.sh", str(place.file), **JOB, SLURM_SUBMIT_DIR=str(tmp_path))
    assert "submit this from the repository root" in line


def test_what_the_machine_lacks_is_one_line(place):
    assert "no usable GPU on this machine" in refused(place, "launch_multi_gpu.sh", str(place.file), code=1, GPUS="0")
    (place.bin / "accelerate").unlink()
    assert "no accelerate on PATH" in refused(place, "launch_multi_gpu.sh", str(place.file), code=1)


@pytest.mark.parametrize("script", ["launch_multi_gpu.sh", "launch_multi_node.sh", "slurm_example.sh"])
def test_help_is_the_comment_at_the_top(place, script):
    done = place.run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{script} " in done.stdout and "#" not in done.stdout and not place.calls_file.exists()
