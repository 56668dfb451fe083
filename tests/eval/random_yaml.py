"""Random experiment, plan and option texts: the shipped files with things put in that YAML and Python trip over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "eval_configs").glob("*.yaml"))
PLANS = (
    "before: {name: random_drop, keep: 0.25}\ndecode: 'dycoke,l=5,decode=one_shot'\n",
    "plan:\n  before: visionzip,keep=0.25\n  inside: fastv\n  decode:\n    name: dycoke\n    l: 5\n",
)
OPTIONS = ("0.7", "paper", "[8, 16]", "true", '"a b"', "{a: 1}")
_TAGS = ("bool", "int", "float", "null", "str", "seq", "map", "set", "omap", "pairs", "binary", "timestamp", "merge")
_LABELS = (
    "{k.nope}",
    "{k[0]}",
    "{k:4000000000}",
    "{paper}",
    "{k!r}",
    "{}",
    "{0}",
    "{",
    "}}",
    "{k:{p}}",
    "{frames}",
    "{k}",
)
_HOLE = "HOLE"


def _bomb(rng: random.Random) -> str:
    """Lists or mappings of aliases of lists of aliases."""
    levels, width = rng.randint(6, 12), rng.randint(5, 12)
    kind = rng.choice(["[{}]", "[{}]", "merge"])
    inner = "{x: 1}" if kind == "merge" else rng.choice(["x", "1", "''", "[]"])
    made = f"&z0 {inner}"
    for level in range(1, levels):
        names = ", ".join([made] + [f"*z{level - 1}"] * width)
        made = f"&z{level} " + (f"{{<<: [{names}]}}" if kind == "merge" else kind.format(names))
    return made


def _deep(rng: random.Random) -> str:
    depth = rng.choice([30, 60, 900, 20_000])
    opening, closing = rng.choice([("[", "]"), ("{a: ", "}"), ("[{a: ", "}]")])
    return opening * depth + rng.choice(["", "1" + closing * depth])


def _wide(rng: random.Random) -> str:
    count = rng.choice([200, 9_000, 60_000])
    if rng.random() < 0.5:
        return "[" + ", ".join(str(i) for i in range(count)) + "]"
    return "{" + ", ".join(f"k{i}: {i}" for i in range(count)) + "}"


def _long(rng: random.Random) -> str:
    count = rng.choice([300, 5_000, 150_000, 3_000_000])
    return rng.choice(["x", "9", "0x" + "f", "1:", "é", "{k}", ",a=1"]) * count


def _tagged(rng: random.Random) -> str:
    tag = rng.choice(
        [f"!!{rng.choice(_TAGS)}", "!!python/object/apply:os.getcwd", "!!python/name:os.system", "!x", "!"]
    )
    return f"{tag} {rng.choice(['abc', '[]', '{}', '[a: 1]', '2026-01-31', '1', '~', '0x_', '_', '+', chr(34) * 2])}"


def _key(rng: random.Random) -> str:
    return "{" + rng.choice(["1", "1.5", "~", "true", "[a]", "{a: 1}", "2026-01-31", "!!binary aGk=", "? [1]"]) + ": 2}"


def _alias(rng: random.Random) -> str:
    return rng.choice(
        ["&a [*a]", "&a {b: *a}", "&a {<<: *a}", "*nowhere", "&a {*a : 1}", "{<<: 3}", "{<<: {name: full}}"]
    )


def _odd(rng: random.Random) -> str:
    odd = [".nan", "-.inf", "1e999", "2026-01-31", "2026-01-31 10:00:00", "!!binary aGk=", "~", "''", "[]", "{}", "-1"]
    odd += [
        '"\\uD800"',
        '"\\UFFFFFFFF"',
        '"\\x1b[2J\\a"',
        "1e-9",
        "off",
        "0o7",
        "010",
        "1:30",
        "- a",
        "=",
        "<<",
        "\x07",
    ]
    return rng.choice(
        [*odd, "99999999999999999999", "[[[1]]]", "{name: full}", "full,=,", "dycoke,k=[", "\x00", "\ufeff"]
    )


def _labelled(rng: random.Random) -> str:
    option = rng.choice(["k: 0.5", "k: [0.1, 0.2]", "1.5: 2, k: 1", "k: 2026-01-31", "k: [[1], [2]]", "k: ~"])
    return f'{{name: dycoke, {option}, label: "{rng.choice(_LABELS) * rng.choice([1, 1, 3, 5_000])}"}}'


def _product(rng: random.Random) -> str:
    values = ", ".join(f"0.{i:03}" for i in range(rng.choice([3, 20, 199])))
    return f"[{{name: dycoke, k: [{values}], p: [{values}], positions: [{values}], l: [{values}]}}]"


KINDS: tuple[Callable[[random.Random], str], ...] = (
    *(_bomb, _deep, _wide, _long, _tagged, _key, _alias, _odd, _labelled, _product),
)


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def _with_hole(text: str, rng: random.Random) -> str:
    """A YAML text with HOLE in the place of a value anywhere in it, or of a key, or as one more entry."""
    content = yaml.safe_load(text)
    *path, last = rng.choice(list(_places(content)))
    inner = content
    for key in path:
        inner = inner[key]
    way = rng.random()
    if way < 0.2 and isinstance(inner, dict):
        inner[_HOLE] = inner.pop(last)
    elif way < 0.3 and isinstance(inner, list):
        inner.append(_HOLE)
    elif way < 0.4 and isinstance(inner, dict):
        inner["more"] = _HOLE
    else:
        inner[last] = _HOLE
    return yaml.safe_dump(content, default_flow_style=rng.random() < 0.3, sort_keys=False, width=10**6)


def _scrambled(text: str, rng: random.Random) -> str:
    """A text with lines and characters lost, doubled or put elsewhere."""
    lines = text.splitlines()
    for _ in range(rng.randint(0, 2)):
        place = rng.randrange(len(lines))
        lines[place : place + 1] = rng.choice([[], [lines[place]] * 2, [" " + lines[place]], [lines[place].lstrip()]])
        lines = lines or [""]
    text = "\n".join(lines)
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(len(text) + 1)
        text = (
            text[:place] + rng.choice("[]{}:,-&*!|>'\"%@`#?\t\n ~0.e\x00\x85\u2028") + text[place + rng.randint(0, 1) :]
        )
    return text


def random_text(seed: int) -> tuple[str, bytes]:
    """What a text stands for, "experiment", "plan", "options" or "config", and the text."""
    rng = random.Random(seed)
    what = rng.choice(["experiment", "experiment", "plan", "options", "config"])
    shipped = {"plan": PLANS, "options": OPTIONS}.get(what) or [path.read_text() for path in SHIPPED]
    text = rng.choice(shipped)
    if rng.random() < 0.8:
        made = rng.choice(KINDS)(rng)
        text = made if what == "options" else _with_hole(text, rng).replace(_HOLE, made)
    if rng.random() < 0.3:
        text = _scrambled(text, rng)
    encoding = rng.choice(["utf-8"] * 12 + ["utf-16", "utf-8-sig", "latin-1"])
    return what, text.encode(encoding, "replace")
