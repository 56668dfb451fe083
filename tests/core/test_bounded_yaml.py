"""YAML is read in bounded time and memory, into plain values, and refused in one line otherwise."""

from __future__ import annotations

import os
import time

import pytest
import yaml

from dycoke.eval.runs.experiment import load_experiment
from dycoke.options import parse_method, write_value
from dycoke.plans import load_plan
from dycoke.text.bounded_yaml import LONGEST, parse_yaml, read_text, read_yaml, write_yaml
from dycoke.text.brief import brief, shorten

BOMB = "&a0 [x, x]" + "".join(f"\nk{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
MERGES = "&a0 {x: 1}" + "".join(f"\nk{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10))
HEAD = "model: {id: dycoke_hf, pretrained: nano}\nvideo: {frames: 8}\ntasks: [nanovideo]\n"


def refusal(text: str) -> str:
    start = time.process_time()
    with pytest.raises(ValueError, match="not a value in YAML: ") as caught:
        parse_yaml(text)
    assert time.process_time() - start < 2
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and len(said) < 500
    return said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"k0: {BOMB}", "more than 10000 values"),
        (f"k0: {MERGES}", "more than 10000 values"),
        ("\n".join(f"k{n}: 1" for n in range(15_000)), "more than 10000 values"),
        (f"[{'1,' * 60_000}]", "more than 10000 values"),
        (f"a: &a {'x' * 150_000}\nb: [{'*a, ' * 9_000}]", "aliases stand for more than"),
        ("x" * (LONGEST + 1), f"{LONGEST + 1} characters; expected at most {LONGEST}"),
        ("[" * 9_999, "nested more than 50 deep"),
        ("{a: " * 9_999, "nested more than 50 deep"),
        ("- " * 9_999, "nested more than 50 deep"),
        ("&a [*a]", "nested more than 50 deep"),
        ("&a {b: *a}", "nested more than 50 deep"),
        ("&a {<<: *a}", "nested more than 50 deep"),
        ("a: " + "9" * 5_000, "not an accepted int"),
        ("a: 0x" + "f" * 5_000, "not an accepted int"),
        ("!!int 0x_", "not an accepted int"),
        ("!!bool abc", "'abc': not an accepted bool (line 1)"),
        ("!!float abc", "not an accepted float"),
        ("a: 1\nb: .nan", "'.nan': not an accepted float (line 2)"),
        ("-.inf", "not an accepted float"),
        ("1e999", "not an accepted float"),
        ("!!timestamp abc", "constructor for the tag 'tag:yaml.org,2002:timestamp'"),
        ("!!binary aGk=", "2002:binary'"),
        ("!!set {a}", "2002:set'"),
        ("!!omap [a: 1]", "2002:omap'"),
        ("!!python/name:os.system ''", "python/name:os.system'"),
        ("!!str [a]", "2002:str'"),
        ("!!map [a: 1]", "2002:map'"),
        ("a: {1.5: 2}", "key 1.5: expected a text (line 1)"),
        ("{[a]: 2}", "key ['a']: expected a text"),
        ("a: 1\nb: 1\na: 2", "'a' is given twice (line 3)"),
        ("{<<: 3}", "<<: expected a mapping"),
        ('"\\UFFFFFFFF"', "too large"),
        ("a: \x00", "#x0000"),
        ("--- a\n--- b", "expected a single document"),
    ],
)
def test_refused_in_one_line_at_once(text, complaint):
    assert complaint in refusal(text)


def test_what_people_write_is_what_they_mean():
    text = "a: off\nb: 2026-01-31\nc: [1e-9, 1e5, 0.5, 3]\nd: {yes: no, e: =}\nf: ~\ng: 'x y'\n"
    assert parse_yaml(text) == {
        "a": "off",
        "b": "2026-01-31",
        "c": [1e-9, 1e5, 0.5, 3],
        "d": {"yes": "no", "e": "="},
        "f": None,
        "g": "x y",
    }
    assert parse_yaml("") is None


def test_anchors_and_merges_are_read():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 5}, *a]}\nd: [*a, *a]\n"
    read = parse_yaml(text)
    assert read["b"] == {"x": 1, "y": 3} and read["c"] == {"x": 5, "y": 2} and read["d"] == [read["a"]] * 2


def test_halves_of_a_character_are_made_whole():
    assert parse_yaml('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    assert parse_yaml('"\\ud800"') == "\ud800"


@pytest.mark.parametrize("text", ["1e5", "2026-01-31", "off", "true", "12345e6", "a: b", "\ud800", "=", "010"])
def test_what_is_written_is_read_back_by_either_loader(text):
    written = write_yaml({"a": text, "b": [text]})
    assert parse_yaml(written) == yaml.safe_load(written) == {"a": text, "b": [text]}


def test_a_text_that_is_no_yaml_is_an_option_all_the_same():
    assert [write_value(text) for text in ("[", "!x y", "9" * 200)] == ['"["', '"!x y"', f'"{"9" * 200}"']


def test_files(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("\ufeffa: é".encode())
    assert read_yaml(file) == {"a": "é"}
    file.write_text("a: b", encoding="utf-16")
    with pytest.raises(UnicodeDecodeError):
        read_yaml(file)
    with file.open("wb") as large:
        large.truncate(2**30)
    with pytest.raises(ValueError, match="more than 800000 bytes"):
        read_yaml(file)
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="a device or a pipe; expected a file"):
            read_text(place)


@pytest.mark.parametrize("load", [load_plan, load_experiment])
@pytest.mark.parametrize(
    ("content", "complaint"), [(b"a: \xff", "x.yaml: "), (b"\xff\xfea\x00", "x.yaml: "), (b"[" * 999, "50 deep")]
)
def test_a_file_that_cannot_be_read_is_named(load, content, complaint, tmp_path):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        load(tmp_path / "x.yaml")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ('[{name: dycoke, k: 0.5, label: "{k.real}"}]', "expected {} around names of options"),
        ('[{name: dycoke, k: 0.5, label: "{k[0]}"}]', "expected {} around names"),
        ('[{name: dycoke, k: 0.5, label: "{k:4000000000}"}]', "expected {} around names"),
        ('[{name: dycoke, k: 0.5, label: "{k!r}"}]', "expected {} around names"),
        ('[{name: dycoke, k: 0.5, label: "{paper}"}]', "expected {} around names"),
        ('[{name: dycoke, k: 0.5, label: "{"}]', "expected {} around names"),
        ('[{name: dycoke, k: 0.5, label: "' + "{k}" * 400 + '"}]', "more than 1000 characters"),
        ("[{name: dycoke, label: [a]}]", "label: ['a']: expected a text"),
        ("[{plan: {before: full}, label: [a]}]", "label: ['a']: expected a text"),
        ("[{plan: {before: full}, paper: 3}]", "paper: 3: expected a text"),
        ("[{name: random_drop, keep: 2026-01-31}]", "keep='2026-01-31': expected a number"),
        ("[full]\npaper: [a]", "paper: ['a']: expected a text"),
        (f"[{{name: dycoke, k: &k [{'0.5, ' * 199}], l: *k, p: *k}}]", "7880599 combinations"),
        (
            f"[{{name: random_drop, seed: [{', '.join(map(str, range(200)))}], video: {{frames: [{'8, ' * 60}]}}}}]",
            "12000 runs",
        ),
    ],
)
def test_experiments_are_refused_in_one_line_at_once(methods, complaint, tmp_path):
    (tmp_path / "x.yaml").write_text(HEAD + f"methods: {methods}\n")
    start = time.process_time()
    with pytest.raises(ValueError, match=r"x\.yaml: ") as caught:
        load_experiment(tmp_path / "x.yaml")
    said = str(caught.value)
    assert complaint in said and len(said.splitlines()) == 1 and len(said) < 2500
    assert time.process_time() - start < 2


def test_as_many_runs_as_are_allowed_take_no_time(tmp_path):
    seeds = ", ".join(map(str, range(4_900)))
    (tmp_path / "x.yaml").write_text(
        HEAD.replace("8", "[8, 16]") + f"methods: [{{name: random_drop, seed: [{seeds}]}}]"
    )
    start = time.process_time()
    assert len(load_experiment(tmp_path / "x.yaml").runs) == 9_800
    assert time.process_time() - start < 2


def test_a_label_may_show_options_and_braces(tmp_path):
    (tmp_path / "x.yaml").write_text(
        HEAD + 'methods: [{name: pdrop, layers: [2, 4], label: "{{L}} {layers} {frames}"}]'
    )
    (run,) = load_experiment(tmp_path / "x.yaml").runs
    assert run.method.label == "{L} [2, 4] 8"


def test_a_method_of_any_length_takes_no_time():
    with pytest.raises(ValueError, match="characters; expected a method's name"):
        parse_method("dycoke" + ",a=1" * 50_000)


def test_values_in_messages_are_cut():
    value = ["x" * 10**6] * 10**5
    start = time.process_time()
    assert len(brief(value)) <= 240 and len(brief({"a": value})) <= 240
    assert time.process_time() - start < 0.5
    assert brief({"name": 3}) == "{'name': 3}" and shorten("a" * 30, 15) == "aaaaa ... aaaaa"
