"""`dycoke report`: the files it writes, the same for the same runs, and what it prints."""

from __future__ import annotations

import csv
import errno
import shutil
import sys
from collections import defaultdict

import pytest

from dycoke import cli
from dycoke.eval.report.command import write_report
from tests.eval.report.report_cases import SCORES, SMALL, small

pytestmark = pytest.mark.xdist_group("report")  # one process of the tests writes the report they share
TWO = SMALL.replace("frames: 32", "frames: [16, 32]")
TABLES = [f"tables/{name}.{ending}" for name in ("efficiency", "main") for ending in ("csv", "md", "tex")]
PLOTS = [f"plots/{name}.{ending}" for name in ("bars", "frames", "retention") for ending in ("pdf", "png")]


def written(results):
    """The files of a report, by their paths."""
    home = results / "small"
    files = [path for folder in ("tables", "plots") for path in (home / folder).rglob("*")]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A folder of results with a report; tests change copies of it."""
    results = tmp_path_factory.mktemp("results")
    small(results, text=TWO)
    write_report("small", results)
    return results


@pytest.fixture
def reported(report, tmp_path):
    shutil.copytree(report, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes the time of a report; what is said does not depend on it."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: path.write_bytes(b"drawn"))


def test_two_reports_of_the_same_runs_are_the_same_bytes(reported):
    first = written(reported)
    assert sorted(first) == sorted(TABLES + PLOTS)
    shutil.rmtree(reported / "small" / "tables")
    write_report("small", reported)
    assert written(reported) == first
    assert all(content.startswith(b"\x89PNG") for name, content in first.items() if name.endswith("png"))
    assert all(b"CreationDate" not in content for name, content in first.items() if name.endswith("pdf"))


def test_the_main_table_does_not_depend_on_times(tmp_path, capsys, no_pictures):
    printed = []
    for seconds in (10.0, 20.0):

        def change(spec, metrics, seconds=seconds):
            metrics["usage"] |= {"seconds": seconds, "decode_ms_per_token": seconds}
            return metrics

        small(tmp_path, change)
        assert cli.main(["report", "small", "--results", str(tmp_path)]) == 0
        printed.append(capsys.readouterr().out)
        assert (tmp_path / "small" / "tables" / "main.md").read_text() == printed[-1]
    assert printed[0] == printed[1]
    assert "# A small table" in printed[0] and "s/example" not in printed[0]


def test_times_are_printed_when_asked_for(tmp_path, capsys, no_pictures):
    small(tmp_path)
    assert cli.main(["report", "small", "--results", str(tmp_path), "--times"]) == 0
    out = capsys.readouterr().out
    assert out.endswith((tmp_path / "small" / "tables" / "efficiency.md").read_text()) and "s/example" in out


def test_an_experiment_may_be_named_by_its_file(tmp_path, capsys, no_pictures):
    small(tmp_path)
    assert cli.main(["report", "anywhere/small.yaml", "--results", str(tmp_path)]) == 0
    assert "# A small table" in capsys.readouterr().out


def test_an_experiment_may_be_named_by_its_folder(tmp_path, capsys, monkeypatch):
    small(tmp_path / "kept")
    for folder in (tmp_path / "kept" / "small", f"{tmp_path}/kept/small/", "small", "."):
        monkeypatch.chdir(tmp_path / "kept" / ("small" if folder == "." else ""))
        assert cli.main(["report", str(folder)]) == 0
        assert "# A small table" in capsys.readouterr().out


def test_the_files_written_are_named(tmp_path, capsys):
    small(tmp_path)
    assert cli.main(["report", "small", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().err.splitlines()
    named = [
        f"{line.partition(': ')[0].rpartition('/')[2]}/{name}"
        for line in told
        for name in line.split(": ")[1].split(", ")
    ]
    assert sorted(named) == sorted(written(tmp_path))
    assert told[0].startswith(f"written to {tmp_path}/small/tables: ")


def test_labels_come_out_as_texts(tmp_path, capsys):
    odd = r'''"=1+1 \uD800\e]0;t\a [/b] ~~x~~"'''
    small(
        tmp_path,
        text=SMALL.replace("label: Random", f"label: {odd}"),
        scores=defaultdict(lambda: SCORES["Random"], SCORES),
    )
    assert cli.main(["report", "small", "--results", str(tmp_path), "--times"]) == 0
    out, shown = capsys.readouterr().out, r"=1+1 \ud800\x1b]0;t\x07 [/b] ~~x~~"
    assert not set(out) & set("\x1b\x07") and r"\~\~x\~\~" in out
    with (tmp_path / "small" / "tables" / "main.csv").open(newline="") as file:
        assert f"'{shown}" in {row["method"] for row in csv.DictReader(file)}


def test_a_plot_that_is_no_more_is_removed(reported):
    for file in reported.glob("small/*/metrics.json"):
        file.unlink()
    write_report("small", reported)
    assert sorted(written(reported)) == sorted(TABLES)


def test_nothing_half_written_takes_a_files_place(reported, monkeypatch):
    before = written(reported)

    def full_disk(figure, path, **_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report("small", reported)
    after = written(reported)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("name", ["nothing", "", "..", "a/b", "missing.yaml"])
def test_no_such_experiment_is_one_line_and_exit_code_2(tmp_path, capsys, name):
    assert cli.main(["report", name, "--results", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "no experiment was swept into" in err


def test_without_matplotlib_nothing_is_written(tmp_path, capsys, monkeypatch):
    small(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", "small", "--results", str(tmp_path)]) == 2
    assert "plots need matplotlib: pip install 'dycoke[eval]'" in capsys.readouterr().err
    assert not (tmp_path / "small" / "tables").exists()
