"""Whatever stands in an experiment, a plan, an option or a run's configuration, it is read or refused in one line.

DYCOKE_RANDOM_YAML says how many random texts are tried.
"""

from __future__ import annotations

import json
import os
import resource
import time
import traceback
from pathlib import Path

import pytest

from dycoke.eval.runs.experiment import load_experiment
from dycoke.eval.runs.folder import RunFolder
from dycoke.options import parse_method, parse_options
from dycoke.plans import load_plan
from dycoke.registry import build
from tests.eval.random_yaml import random_text

COUNT = int(os.environ.get("DYCOKE_RANDOM_YAML", "60"))
SECONDS, BYTES = 2, 300 * 2**20


def read(what: str, content: bytes, folder: Path) -> None:
    file = folder / ("config.yaml" if what == "config" else "some.yaml")
    file.write_bytes(content)
    if what == "experiment":
        load_experiment(file)
    elif what == "plan":
        load_plan(file)
    elif what == "config":
        RunFolder(folder).read_config()
    else:
        text = content.decode("utf-8", "surrogateescape")
        build("dycoke", **parse_options([f"k={text}"]))
        parse_method(f"dycoke,k={text}")


def outcome(what: str, content: bytes, folder: Path) -> str:
    """ "read" or "refused", or what else happened."""
    try:
        read(what, content, folder)
    except (ValueError, TypeError) as error:
        # `build` says with a TypeError what the command line and the readers of files make a ValueError of
        if isinstance(error, TypeError) and what != "options":
            return traceback.format_exc()
        said = str(error)
        return "refused" if said and len(said) < 5000 and len(said.splitlines()) == 1 else f"said {said[:2000]!r}"
    except BaseException:
        return traceback.format_exc()[-3000:]
    return "read"


def _tried(seeds: range, folder: Path) -> list[tuple[int, str, float, int]]:
    """Seed, outcome, CPU seconds and bytes more than before of each, under a limit of memory."""
    limit = _virtual() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 20 + len(seeds), resource.RLIM_INFINITY))
    found = []
    for seed in seeds:
        what, content = random_text(seed)
        before, start = _resident(), time.process_time()
        told = outcome(what, content, folder)
        found.append((seed, told, time.process_time() - start, _resident() - before))
    return found


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def in_a_fork(seeds: range, folder: Path) -> list[tuple[int, str, float, int]]:
    """`_tried` in a child, which the limits are for."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with open(writing, "w") as out:
                json.dump(_tried(seeds, folder), out)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what Linux tells")
def test_random_texts_are_read_or_refused(tmp_path):
    found = in_a_fork(range(COUNT), tmp_path)
    assert [seed for seed, *_ in found] == list(range(COUNT))
    assert not [each for each in found if each[1] not in ("read", "refused")]
    assert not [each for each in found if each[2] > SECONDS]
    kinds = {told for _, told, *_ in found}
    assert kinds == {"read", "refused"}
    seconds, more = max(each[2] for each in found), max(each[3] for each in found)
    print(f"{COUNT} texts: at most {seconds:.2f} s, {more / 2**20:.0f} MiB")
