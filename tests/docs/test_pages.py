"""Pages say what is there: commands parse, Python compiles, names exist, links resolve, YAML is what it claims."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess

import pytest
import typer

import dycoke
from dycoke.cli import app
from dycoke.eval.launch.command import Launcher
from dycoke.eval.runs import experiment
from dycoke.eval.runs.method_rows import _ROW
from dycoke.eval.runs.specs import ModelSpec
from dycoke.families import lmms_eval_models
from dycoke.keywords import _PASSED_ON, _TOKENS
from dycoke.options import parse_yaml
from dycoke.registry import available
from tests.cases import folded
from tests.docs.pages import GENERATED, PAGES, ROOT, all_blocks, anchors, blocks, links, text_of, without_code

SITES = ("arxiv.org/abs/", "github.com/", "pyav.basswood-io.com")
EXPERIMENTS = "docs/evaluation/experiments.md"
# Paths that a reader makes, or fills in.
PLACEHOLDERS = ("results/smoke", "results/EXPERIMENT/logs", "eval_configs/NAME.yaml", "dycoke/methods/changes.py")


def command_lines(page: str) -> list[str]:
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks("bash", page)]
    lines = [line.split("  #")[0].strip() for block in whole for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


LINES = sorted({line for page in PAGES for line in command_lines(page)})


def test_bash_reads_every_block():
    scripts = "\n".join(f"f() {{ :\n{line}\n}}" for line in LINES)
    assert subprocess.run(["bash", "-n"], input=scripts, text=True).returncode == 0
    assert subprocess.run(["bash", "-n"], input="f() { :\nif x\n}", text=True, capture_output=True).returncode


@folded("line", LINES)
def test_shell_lines(line):
    words = shlex.split(line)
    command = words[0].rpartition("/")[2]
    if words[0] in ("bash", "sbatch"):
        assert (ROOT / words[1]).is_file()
        assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))
    elif command == "dycoke":
        parse(words[1:])
    elif command == "python":
        check_python(words)
    else:
        assert words[:2] == ["pip", "install"]
        extras = re.findall(r"\[(\w+)\]", line)
        assert all(re.search(rf'^    "{extra}": ', (ROOT / "setup.py").read_text(), re.M) for extra in extras)


def check_python(words: list[str]) -> None:
    """A script that is there, or a module that can be found, with tests that are there and models it knows."""
    if words[1] != "-m":
        assert (ROOT / words[1]).is_file()
        return
    assert importlib.util.find_spec(words[2]) is not None
    if words[2] == "pytest":
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests"))
    if words[2] == "lmms_eval":
        check_model_arguments(*(words[words.index(option) + 1] for option in ("--model", "--model_args")))


def check_model_arguments(model: str, text: str) -> None:
    """lmms-eval finds the model here, and all arguments are known to it."""
    utils = pytest.importorskip("lmms_eval.utils")
    from lmms_eval.models import MODEL_REGISTRY_V2

    from dycoke.eval.models.arguments import split_arguments

    found = MODEL_REGISTRY_V2.get_model_class(model)
    assert found.__module__.startswith("dycoke.eval.")
    builtin = next(base for base in found.__mro__ if base.__module__.startswith("lmms_eval."))
    assert split_arguments(utils.simple_parse_args_string(text), builtin).chosen is not None


def parse(words: list[str]) -> None:
    """Parse a command line without running it; an unknown option or command raises."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("docs", words)


def test_parse_can_fail():
    with pytest.raises(KeyError):
        parse(["answer", "video.mp4"])
    with pytest.raises(type(typer.BadParameter("")).__mro__[1]):
        parse(["ask", "video.mp4", "?", "--frame-count", "3"])


@folded("page", PAGES)
def test_links_resolve(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            assert any(target.startswith(f"https://{site}") for site in SITES), link
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists() and file.resolve().is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), link


def test_a_dead_link_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# One thing\n[b](b.md#two) `[c](d.md)`\n```\n# Not one\n[x](y)\n```\n")
    assert anchors("a.md") == {"one-thing"}
    assert "b.md#two" in list(links("a.md")) and "y" not in list(links("a.md"))


def test_every_page_can_be_reached():
    """By links from README; what nobody links to is not read."""
    found, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in found or page not in PAGES:
            continue
        found.add(page)
        for link in links(page):
            if not link.startswith("https://"):
                target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
                ahead.append(target.relative_to(ROOT).as_posix())
    assert sorted(found) == sorted(PAGES)


def test_python_compiles_and_names_what_exists():
    code = all_blocks("python")
    assert len(code) > 8
    for page, block in code:
        compile(block, page, "exec")
    for page in PAGES:
        for name in set(re.findall(r"\bdycoke\.(\w+)\(", text_of(page))):
            assert name in dycoke.__all__, f"{page}: {name}"


def test_modules_and_names_in_code_spans_exist():
    """`dycoke.video.frames` and `dycoke.types.Plan` can be imported."""
    for page in PAGES:
        if page in ("CHANGELOG.md",) or page.startswith(GENERATED):
            continue
        for name in set(re.findall(r"`(dycoke(?:\.(?!py`)\w+)+)`", text_of(page))):
            home, _, last = name.rpartition(".")
            found = importlib.util.find_spec(name) if importlib.util.find_spec(home) else None
            assert found or hasattr(importlib.import_module(home), last), f"{page}: {name}"


@folded("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_in_code_spans_exist(page):
    """A path of the repository that a page names in code is there; a folder ends in a slash."""
    tops = "dycoke|llava|scripts|eval_configs|results|tests|docs"
    for name in re.findall(rf"`((?:{tops})/[\w./-]*)`", text_of(page)):
        if name not in PLACEHOLDERS:
            assert (ROOT / name).exists(), name
            assert not name.endswith("/") or (ROOT / name).is_dir(), name


def test_plans_in_yaml_are_plans(monkeypatch, tmp_path):
    """The file that the page shows says what its Python builds."""
    page = "docs/guide/plans.md"
    (text,) = blocks("yaml", page)
    (tmp_path / "plan.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks("python", page) if "build_plan" in block)
    known = {"dycoke": dycoke}
    exec(block.partition("with ")[0], known)
    assert dycoke.load_plan("plan.yaml") == known["plan"] == dycoke.build_plan(parse_yaml(text))
    assert known["plan"].before is not None and known["plan"].decode is not None


def test_the_experiment_shown_is_one():
    (text,) = blocks("yaml", EXPERIMENTS)
    shown = experiment.parse_experiment("shown", parse_yaml(text))
    labels = list(dict.fromkeys(run.method.label for run in shown.runs))
    assert sum(label.startswith("dycoke ") for label in labels) == 6  # as it says
    assert len(labels) == 10 and len(shown.runs) == 2 * len(labels)
    assert {run.limit for run in shown.runs} == {100}


def test_the_experiments_listed_are_there():
    listed = re.findall(r"^\| `(\w+\.yaml)`", text_of("docs/evaluation/run.md"), re.MULTILINE)
    assert len(listed) == 6
    assert all((ROOT / "eval_configs" / name).is_file() for name in listed)


def keys_under(heading: str) -> list[str]:
    section = text_of(EXPERIMENTS).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_reference_has_every_key_and_no_other():
    assert sorted(keys_under("Keys of the file")) == sorted(experiment._KEYS)
    assert sorted(keys_under("Keys of a model")) == sorted(ModelSpec.__dataclass_fields__)
    assert sorted(keys_under("Keys of a row")) == sorted(_ROW)
    assert sorted(keys_under("Keys of a launcher")) == sorted(Launcher.__dataclass_fields__)
    defaults = {name: field.default for name, field in Launcher.__dataclass_fields__.items()}
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (?:`(\w+)`|[\w ]+) \|$", text_of(EXPERIMENTS), re.MULTILINE))
    for name in ("processes", "machines", "cpu"):
        assert told[name] == str(defaults[name]).lower()


def test_errors_are_told_in_the_words_of_the_code():
    """What a page quotes of an error, between its gaps, stands in the code."""
    code = "".join(file.read_text() for room in ("dycoke", "llava") for file in (ROOT / room).rglob("*.py"))
    section = text_of("docs/guide/troubleshooting.md").partition("\n## An error")[2].partition("\n## ")[0]
    errors = re.findall(r"^\| `([^`]*)` \|", section, re.MULTILINE)
    assert len(errors) == 6
    for text in errors:
        assert max(map(str.strip, text.split("...")), key=len) in code, text


def test_loader_keywords_are_the_loaders():
    named = {name for page in PAGES for name in re.findall(r"`(dycoke_\w+)`", text_of(page))}
    assert named - set(available()) - set(lmms_eval_models()) == {*_PASSED_ON, _TOKENS}


@folded("page", [page for page in PAGES if not page.startswith(GENERATED)])
def test_pages_read_as_plain_markdown(page):
    """One title, no HTML, and nothing but Markdown's own."""
    text = text_of(page)
    assert len(re.findall(r"^# ", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)) == 1
    assert not re.search(r"</?[a-z]+[^>]*>|^!!! |^\?\?\? |^=== ", without_code(text), re.MULTILINE)
