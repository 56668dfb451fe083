"""The experiments of NanoVideoBench: every method at each share of the tokens, and layers that fit the model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from dycoke import available, build
from dycoke.eval.runs.experiment import load_experiment
from dycoke.eval.runs.specs import RunSpec
from dycoke.lab.cost import retained, retained_final
from dycoke.nano.generator import FAMILIES
from tests.eval.configs import FILES, NANO, layers_of, per_frame_of, plan_of, runs_of, tokens_of

SHARES = {"50 % of the visual tokens": 0.5, "25 % of the visual tokens": 0.25, "10 % of the visual tokens": 0.1}
POSITIONS = "The other positions"
BY_CONTENT = ("framefusion", "holitom", "prunevid")
PER_FRAME_ALONE = ("fastvid", "prumerge", "prumerge_plus", "visionzip")  # as many tokens of every frame
FIRST_WHOLE = {"fastv": 13.4, "sparsevlm": 13.7}  # let everything into the first layer: percent at 10 %

# Published layers, of models with so many.
PUBLISHED = {
    "dycoke": ("l", 3, 28),
    "dynamic_pruning": ("layer", 3, 28),
    "fastv": ("k", 5, 28),
    "holitom": ("layer", 18, 28),
    "flashvid": ("layer", 20, 28),
    "prunevid": ("layer", 10, 28),
    "pdrop": ("layers", (8, 16, 24), 32),
    "sparsevlm": ("layers", (2, 6, 15), 32),
}


def sections(name: str) -> dict[str, list[RunSpec]]:
    found: dict[str, list[RunSpec]] = {}
    for run in runs_of(name):
        found.setdefault(run.method.section, []).append(run)
    return found


TABLE = sections("nano_table1")
_VIDEOS = 34


def whole(run: RunSpec) -> int:
    return run.frames * per_frame_of(run)


def share(run: RunSpec) -> float:
    """Of the visual tokens that enter a layer in prefill."""
    return retained(tokens_of(run), whole(run))


def percent(shares: Iterable[float]) -> list[str]:
    return [f"{100 * each:.1f}" for each in shares]


@pytest.mark.parametrize("name", NANO)
def test_model_and_launcher(name):
    for run in runs_of(name):
        assert (run.model.id, run.model.pretrained, run.task) == ("llava_onevision", "nano", "nanovideo")
        own = {"conv_template": "qwen_1_5", "model_name": "llava_qwen"}
        # every video of the table is encoded once for all its questions
        assert run.model.args == own | {"dtype": "float32", "encoder_cache": _VIDEOS}
        assert run.launcher.cpu and run.launcher.count == 1
        assert (run.batch_size, run.seed, run.generation) == (1, 0, {})
        assert run.frames == 32 or name == "nano_fig5"
        assert run.limit == (17 if name in ("nano_main", "nano_fig5") else _VIDEOS)


def test_main_rows_are_those_of_table_1():
    published = [run.method for run in runs_of("table1") if run.model.name.endswith("7b-ov")]
    published = list({method.slug: method for method in published}.values())
    ours = [run.method for run in TABLE[""]]
    assert [method.label for method in ours] == [method.label for method in published]
    for own, other in zip(ours, published, strict=True):
        depth = dict.fromkeys(PUBLISHED[own.name][:1]) if own.name in PUBLISHED else {}
        assert own.options | depth == other.options | depth


@pytest.mark.parametrize("section", SHARES)
def test_every_registered_method_is_there_at_every_share(section):
    assert list(TABLE) == ["", *SHARES, POSITIONS]
    reaching = {*available()} - {"full"} - ({"dycoke"} if SHARES[section] == 0.1 else set())
    assert sorted(run.method.name for run in TABLE[section]) == sorted(reaching)


@pytest.mark.parametrize("section", SHARES)
def test_methods_prefill_the_share_or_the_nearest(section):
    aim = SHARES[section]
    for run in TABLE[section]:
        name = run.method.name
        if name in (*BY_CONTENT, "dynamic_pruning"):
            continue
        nearest = aim
        if aim == 0.1 and name in PER_FRAME_ALONE:
            nearest = min((count / per_frame_of(run) for count in range(1, 5)), key=lambda each: abs(each - aim))
        if aim == 0.1 and name in FIRST_WHOLE:
            nearest = FIRST_WHOLE[name] / 100
            assert nearest > 1 / layers_of(run) > aim
        tolerance = 0.016 if name == "dycoke" else 0.0065
        assert share(run) == pytest.approx(nearest, abs=tolerance), run.id


def test_dycoke_is_at_the_nearest_it_can_be_to_half():
    (run,) = (run for run in TABLE["50 % of the visual tokens"] if run.method.name == "dycoke")
    reached = {(1 + 3 * count / per_frame_of(run)) / 4 for count in range(per_frame_of(run) + 1)}
    assert share(run) == min(reached, key=lambda each: abs(each - 0.5))
    (run,) = (run for run in TABLE["25 % of the visual tokens"] if run.method.name == "dycoke")
    assert share(run) == min(reached)


@pytest.mark.parametrize("section", SHARES)
def test_dynamic_pruning_reads_the_share(section):
    (run,) = (run for run in TABLE[section] if run.method.name == "dynamic_pruning")
    assert share(run) == 1
    assert retained_final(tokens_of(run), whole(run)) == pytest.approx(SHARES[section], abs=0.001)


def test_the_rest_depends_on_the_videos():
    for section in SHARES:
        for run in TABLE[section]:
            if run.method.name in BY_CONTENT:
                with pytest.raises(ValueError, match="depends on the content"):
                    tokens_of(run)
    spent = [run.method.build().cost for runs in TABLE.values() for run in runs if run.method.name == "framefusion"]
    assert spent == list(SHARES.values())


def test_shares_that_the_head_names_are_those_of_the_rows():
    text = " ".join(line.lstrip("# ") for line in FILES["nano_table1"].read_text().splitlines())
    told = re.search(r"K = \.3, \.5, \.7 retain ([\d.]+), ([\d.]+) and ([\d.]+) %", text).groups()
    rows = [run for run in TABLE[""] if run.method.name == "dycoke"]
    assert list(told) == percent(map(share, rows))
    half = next(run for run in TABLE["50 % of the visual tokens"] if run.method.name == "dycoke")
    assert f"# {percent([share(half)])[0]} %; one token more" in text
    least = [next(run for run in TABLE["10 % of the visual tokens"] if run.method.name == name) for name in FIRST_WHOLE]
    assert " and ".join(percent(map(share, least))) + " %" in text


NEARER = {"pdrop": (1, 2), "sparsevlm": (1, 1)}  # layers nearer to the input at 25 and 10 %


def test_layers_are_at_the_published_depth():
    for number, section in enumerate(("", *SHARES)):
        for run in TABLE[section]:
            if run.method.name not in PUBLISHED:
                continue
            option, published, of = PUBLISHED[run.method.name]
            if run.method.name != "fastv":
                assert getattr(build(run.method.name), option) == published
            nearer = NEARER[run.method.name][number - 2] if run.method.name in NEARER and number > 1 else 0
            each = published if isinstance(published, tuple) else (published,)
            fitting = [max(0, int(layers_of(run) * layer / of + 0.5) - nearer) for layer in each]
            given = run.method.options[option]
            assert (given if isinstance(given, list) else [given]) == fitting, run.id


def test_the_other_positions_are_those_that_a_row_has_not():
    rows = {run.method.slug: run.method for section, runs in TABLE.items() if section != POSITIONS for run in runs}
    for run in TABLE[POSITIONS]:
        options = {key: value for key, value in run.method.options.items() if key != "positions"}
        slug = run.method.slug.removesuffix(f"-positions{run.method.options['positions']}")
        assert rows[slug].options == options
        assert {rows[slug].build().positions, run.method.build().positions} == {"packed", "original"}
    names = [run.method.name for run in TABLE[POSITIONS]]
    assert [names.count(name) for name in ("dycoke", "random_drop")] == [3, 3]


def test_main_rows_are_runs_of_the_table():
    table = {run.method.slug: run for runs in TABLE.values() for run in runs}
    main = runs_of("nano_main")
    assert [run.method.slug for run in main[:6]] == [run.method.slug for run in TABLE[""]]
    assert {run.method.name for run in main[6:]} == {"random_drop"}
    for run in main:
        other = table[run.method.slug]
        assert (run.model, run.frames, run.method.label) == (other.model, other.frames, other.method.label)
    assert f"{main[0].limit * len(FAMILIES)} questions" in load_experiment(FILES["nano_main"]).title


def test_ways_to_choose_are_compared_at_one_budget():
    compared = {name: runs for name, runs in sections("nano_table5").items() if name not in ("", "L and P")}
    assert len(compared) == 3
    for runs in compared.values():
        assert {run.method.options.get("decode", "dynamic") for run in runs} == {"dynamic", "one_shot", "random"}
        assert len({(tokens_of(run).prefill, tokens_of(run).decode) for run in runs}) == 1


def test_l_and_p_are_varied_around_one_setting():
    around = {"k": 0.7, "l": 1, "p": 0.7}
    changed = [
        {key for key in around if run.method.options[key] != around[key]} for run in sections("nano_table5")["L and P"]
    ]
    assert changed == [{"l"}, {"l"}, {"p"}, {"l", "p"}, {"k", "p"}]


def test_merging_alone_reads_all_that_it_keeps():
    full, alone = sections("nano_table5")[""]
    assert full.method.name == "full" and plan_of(alone).decode is None
    assert tokens_of(alone).decode == tokens_of(alone).prefill


def test_k_against_frames():
    assert [(run.frames, run.method.options.get("k", 0)) for run in runs_of("nano_fig5")] == [
        (frames, k) for k in (0, 0.3, 0.5, 0.7, 0.9) for frames in (8, 16, 32, 64)
    ]
