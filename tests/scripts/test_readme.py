"""The README says what is there: its commands parse, its method table and its Python names are the code's."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import typer
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.cli import app
from dycoke.engine import weights as joined
from dycoke.eval.runs.experiment import _KEYS, parse_experiment
from dycoke.families import lmms_eval_models
from dycoke.families.chat import load_chat, placement
from dycoke.keywords import _PASSED_ON, _TOKENS
from dycoke.model_shape import LLAVA_ONEVISION
from dycoke.nano import MODEL_PATH, SAMPLES_PATH
from dycoke.offline.answer import answer
from dycoke.ops.layer.skinny_linear import FEW_ROWS
from dycoke.options import parse_yaml
from dycoke.registry import available, build, entry
from dycoke.report import STAGES
from dycoke.video.frames import read_frames
from tests.cases import folded

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks("bash")]
    lines = [line.split("  #")[0].strip() for block in whole for line in block.splitlines()]
    return [line for line in lines if line]


@folded("line", command_lines())
def test_shell_lines(line):
    assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    words = shlex.split(line)
    if words[0] in ("bash", "sbatch"):
        assert (ROOT / words[1]).is_file()
        experiments = [word for word in words if word.endswith(".yaml")]
        assert all((ROOT / experiment).is_file() for experiment in experiments)
    elif words[0] == "dycoke":
        parse(words[1:])
    elif words[0] == "python":
        assert words[1] == "-m" and importlib.util.find_spec(words[2]) is not None
        if words[2] == "lmms_eval":
            check_model_arguments(*(words[words.index(option) + 1] for option in ("--model", "--model_args")))
    else:
        assert words[:2] == ["pip", "install"]


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
    command.make_context("readme", words)


def test_parse_can_fail():
    with pytest.raises(KeyError):
        parse(["answer", "video.mp4"])
    with pytest.raises(type(typer.BadParameter("")).__mro__[1]):
        parse(["ask", "video.mp4", "?", "--frame-count", "3"])


def test_scripts_are_the_first_screen():
    lines = command_lines()[:2]
    assert lines == ["bash scripts/quickstart.sh", "bash scripts/test.sh"]


def test_python_blocks_compile_and_name_what_exists():
    code = blocks("python")
    assert code
    for block in code:
        compile(block, "README.md", "exec")
    for name in set(re.findall(r"\bdycoke\.(\w+)\(", "".join(code) + README)):
        assert name in dycoke.__all__


def test_plans_in_yaml_are_plans(monkeypatch, tmp_path):
    """The file the README shows says what its Python builds."""
    text = blocks("yaml")[0]
    (tmp_path / "plan.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks("python") if "build_plan" in block)
    known = {"dycoke": dycoke}
    exec(block.partition("with ")[0], known)
    assert dycoke.load_plan("plan.yaml") == known["plan"] == dycoke.build_plan(parse_yaml(text))
    assert known["plan"].before is not None and known["plan"].decode is not None


def test_the_experiment_shown_is_one():
    experiment = parse_experiment("shown", parse_yaml(blocks("yaml")[1]))
    labels = list(dict.fromkeys(run.method.label for run in experiment.runs))
    assert sum(label.startswith("dycoke ") for label in labels) == 6  # as it says
    assert len(labels) == 10 and len(experiment.runs) == 2 * len(labels)
    assert {run.limit for run in experiment.runs} == {100}
    for name in re.findall(r"^\| `(\w+\.yaml)`", README, re.MULTILINE):
        assert (ROOT / "eval_configs" / name).is_file()
    assert set(_KEYS) <= set(re.findall(r"\w+", README.partition("## Evaluation")[2].partition("## Benchmark")[0]))


def test_loader_keywords_are_the_loaders():
    named = set(re.findall(r"`(dycoke_\w+)`", README)) - set(available()) - set(lmms_eval_models())
    assert named == {*_PASSED_ON, _TOKENS}


def test_decode_tables_are_what_the_record_says():
    record = json.loads((ROOT / "results" / "bench" / "decode_h200.json").read_text())

    def medians(results: list[dict]) -> dict[str, str]:
        return {row["version"]: f"{row['median_ms']:.3f} ms" for row in results}

    graphs, eager = (medians(record["step"][loop]["results"]) for loop in ("graphs", "eager"))
    attention = medians(record["attention"]["results"])
    speeds = {row["version"]: f"{row['gb_per_s']:.0f} GB/s" for row in record["attention"]["results"]}
    memory = {
        row["version"]: (f"{row['measured_bytes'] / 2**20:.1f}", f"{row['measured_share']:.1%}")
        for row in record["memory"]["results"]
    }
    cells = [tuple(cell.strip() for cell in row.split("|")[2:-1]) for row in README.splitlines() if row.startswith("|")]
    for version in ("stock_untouched", "full_untouched"):
        assert ("6302", graphs[version], "") in cells
    for version in ("stock", "full", "dp"):
        assert ("2990", graphs[version], eager[version]) in cells
    for version in ("dense", "torch_sdpa", "dp_carried_on"):
        assert (attention[version], speeds[version]) in cells
    assert all(row in cells for row in memory.values()) and len(memory) == 4

    ratios = {row["ratio"]: row for row in record["step"]["graphs"]["ratios"]}
    low, high = ratios["dp / full"]["range"]
    assert f"costs {ratios['dp / full']['of_medians'] - 1:.1%}".replace("%", " %") in PROSE
    assert f"rounds {low:.4f} to {high:.4f}" in PROSE
    host_bound = {row["ratio"]: row["of_medians"] for row in record["step"]["eager"]["ratios"]}
    assert f"({host_bound['full / stock']:.2f} times a step, and {host_bound['dp / stock']:.2f} with pruning)" in PROSE
    once, always = (each["ratios"][0]["of_medians"] for each in record["memory"]["decoding"])
    assert f"{once:.2f} times as long where nothing is chosen anew and {always:.2f} times where all steps do" in PROSE
    faster = {row["ratio"]: row["of_medians"] for row in record["attention"]["ratios"]}
    assert f"**{faster['dense / dp_carried_on']:.2f} times**" in PROSE
    assert f"**{memory['dp_host'][1][:-1]} %**" in PROSE


def test_the_copy_for_many_rows_is_as_large_as_told():
    shape = LLAVA_ONEVISION["7b"]
    copied = 2 * shape.layers * shape.hidden * (shape.hidden + 2 * shape.kv_heads * shape.head_dim)
    assert f"Batches of more than {FEW_ROWS} rows read a copy" in PROSE
    assert f"({copied / 1e9:.1f} GB at 7B), where that is at most {joined.SHARE:.0%}".replace("%", " %") in PROSE


def later_batches() -> list[dict]:
    """Those of the run behind the one that the other tables are from."""
    record = json.loads((ROOT / "results" / "bench" / "engine_h200_7b_batch.json").read_text())
    assert record["complete"] and record["commit"] and "H200" in record["device"]
    assert f"behind {record['setting']['warm_up']:.0f} s of warm-up" in PROSE
    return record["batch"]["batches"]


def test_engine_tables_are_what_the_record_says():
    record = json.loads((ROOT / "results" / "bench" / "engine_h200_7b.json").read_text())
    assert record["complete"] and record["commit"] and "H200" in record["device"]
    decode, first, answer = (
        {row["version"]: row for row in record[part]["results"]} for part in ("decode", "first_token", "answer")
    )
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in README.splitlines() if row.startswith("|")]
    told = {(row[0].split("`")[1], len(row), row[-1]): row[1:] for row in rows if "`" in row[0]}

    def whole(results: dict, version: str) -> str:
        return f"{results[version]['median_ms']:.0f} ms" if version in results else ""

    for version, row in decode.items():
        cells = [whole(first, version), f"{row['median_ms']:.2f} ms", f"{row['of_floor']:.2f}x", whole(answer, version)]
        assert told[version, 5, cells[-1]] == cells
    for version, row in first.items():
        stages = [(row["stages_ms"].get(name), row["shares"].get(name)) for name in (*STAGES[:3], "rest")]
        cells = ["" if ms is None else f"{ms:.1f} ms ({share:.1%})" for ms, share in stages]
        assert told[version, 5, cells[-1]] == cells
    batches = later_batches()
    assert [batch["rows"] for batch in batches] == [1, 4, 16, 64]
    for version in ("stock_static_graph", "engine_full", "engine_dycoke"):
        found = [next(row for row in batch["results"] if row["version"] == version) for batch in batches]
        cells = [f"{row['tokens_per_s']:.0f} ({row['of_floor']:.2f}x)" for row in found]
        assert told[version, 5, cells[-1]] == cells


def test_engine_claims_are_what_the_record_says():
    record = json.loads((ROOT / "results" / "bench" / "engine_h200_7b.json").read_text())
    small = json.loads((ROOT / "results" / "bench" / "engine_h200_05b.json").read_text())

    def ratio(part: dict, name: str) -> str:
        return f"{next(row['of_medians'] for row in part['ratios'] if row['ratio'] == name):.2f}"

    stock, own = "stock_sdpa / engine_dycoke", "engine_full / engine_dycoke"
    first, answer, decode = (record[part] for part in ("first_token", "answer", "decode"))
    many = later_batches()[-1]
    assert f"**{ratio(first, stock)} times** sooner than stock transformers" in PROSE
    assert f"64 tokens **{ratio(answer, stock)} times** sooner" in PROSE
    ours = next(row for row in decode["results"] if row["version"] == "engine_dycoke")
    assert f"**{ours['median_ms']:.2f} ms**, {ours['of_floor']:.2f} times" in PROSE
    assert f"are {ratio(first, own)}, {ratio(answer, own)} and {ratio(decode, own)} times" in PROSE
    assert many["rows"] == 64
    assert f"**{ratio(many, own)} times** the tokens a second" in PROSE
    full = "stock_sdpa / engine_full"
    assert f"{ratio(first, full)} times faster to the first token, {ratio(decode, full)} times a token" in PROSE
    share = next(row["shares"]["compress"] for row in first["results"] if row["version"] == "engine_dycoke")
    assert f"is {share:.1%}".replace("%", " %") + " of the time to the first one" in PROSE
    logits = record["parity"]["logits"]
    assert f"at most {max(logits['max_by_step']):.3f} from" in PROSE and logits["top1_agreement"] == 1
    steps = {row["version"]: row for row in small["batch"]["batches"][0]["results"]}
    full, pruned = steps["engine_full"], steps["engine_dycoke"]
    assert f"{full['median_ms']:.2f} ms with all tokens and {pruned['median_ms']:.2f} ms with DyCoke" in PROSE
    assert f"{full['of_floor']:.1f} and {pruned['of_floor']:.1f} times its floor" in PROSE


def test_claims_of_two_gpus_are_what_the_record_says():
    record = json.loads((ROOT / "results" / "bench" / "engine_h200_x2_72b.json").read_text())
    assert record["complete"] and record["commit"] and record["gpus"] == 2 and record["setting"]["shape"] == "72b"
    first, answer = (
        next(row for row in record[part]["ratios"] if row["ratio"] == "stock_sdpa / engine_dycoke")
        for part in ("first_token", "answer")
    )
    assert f"has its first token {first['of_medians']:.2f} times sooner" in PROSE
    tokens = record["setting"]["answer"]
    assert f"an answer of {tokens} tokens {answer['of_medians']:.2f} times sooner" in PROSE
    steps = {row["version"]: row for row in record["decode"]["results"]}
    assert steps["engine_dycoke"]["loop"].startswith("stock")
    ours, stock = (steps[version]["median_ms"] for version in ("engine_dycoke", "stock_sdpa"))
    assert f"{ours:.1f} ms a token against {stock:.1f} ms of stock" in PROSE


def test_methods_tables_are_what_the_records_say():
    record = json.loads((ROOT / "results" / "bench" / "methods_h100.json").read_text())
    cells = [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in README.splitlines() if row.startswith("|")]
    for row in record["methods"]:
        assert (f"`{row['method']}`", str(row["kept_tokens"]), f"{row['median_ms']:.2f} ms") in cells
        assert row["runs"] == 100
    over = [row for row in record["methods"] if row["median_ms"] > 5]
    assert [row["method"] for row in over] == ["flashvid"]
    assert "quartiles are {:.2f} and {:.2f} ms, is over the limit".format(*over[0]["iqr_ms"]) in PROSE
    recorded = [row["method"] for row in record["methods"]]  # a method may be newer than the record
    assert recorded == [n for n in available() if "before" in entry(n).stages and n in recorded]
    setting = record["setting"]
    assert (setting["frames"], setting["tokens"], setting["dim"], setting["warm_up"]) == (32, 196, 3584, 40)
    assert "H100" in record["device"] and record["commit"]
    assert f"of {record['tower']['patches']} patches: {record['tower']['median_ms']:.1f} ms" in PROSE


def test_adaptive_table_is_what_the_record_says():
    record = json.loads((ROOT / "results" / "nano" / "compare.json").read_text())
    right = {(row["keep"], row["clip"], row["method"]): row["right"] / row["asked"] for row in record["results"]}
    columns = ("dycoke_adaptive", "dycoke", "random_drop", "uniform_frames")
    rows = re.findall(r"^\| (0\.\d+) \| (native|brief) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 8
    for keep, clip, told in rows:
        shares = [right.get((float(keep), clip, method)) for method in columns]
        assert told.split(" | ") == ["-" if share is None else f"{share:.1%}".replace("%", " %") for share in shares]
    asked = {row["clip"]: row["asked"] for row in record["results"]}
    assert "({native} in `native`, {brief} in `brief`)".format(**asked) in PROSE
    assert record["command"].replace("results/nano/", "") in README


def test_quick_starts_answer_stays_with_the_tokens_claimed():
    """Of the numbers in the first paragraphs, those that any machine can check."""
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    name, question, l = re.search(r'samples/(\w+\.mp4)" "(.*)".*\n.*--compare full,dycoke --l (\d)', script).groups()  # noqa: E741
    share, pruned, layers, read = re.search(
        r"stays the same with (\d+) % of its visual tokens, of which (\w+) of (\w+) layers\s+read (\d+) % while", PROSE
    ).groups()
    chat = load_chat(str(MODEL_PATH), placement("cpu", "float32"))
    request = chat.request(read_frames(SAMPLES_PATH / name, 32), question)
    full, short = (answer(chat, method, request, 128) for method in (build("full"), build("dycoke", l=int(l))))
    assert short.text == full.text and len(full.text.split()) > 20
    report, cache = short.report, short.report.cache
    assert f"{report.visual_kept:.0%}" == f"{share}%"
    visual = report.stages["compress"].tokens
    pruned_away = cache.read_below - cache.read_from
    assert f"{1 - pruned_away / visual:.0%}" == f"{read}%"
    words = {"three": 3, "eight": 8}
    assert (words[pruned], words[layers]) == (cache.layers - cache.first_layer, cache.layers)


def test_the_block_about_bare_language_models_runs(capsys):
    (block,) = (block for block in blocks("python") if "visual=mask" in block)
    torch.manual_seed(0)
    lm = Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()
    mask = torch.zeros(1, 14, dtype=torch.bool)
    mask[:, 2:12] = True
    embeds = torch.randn(1, 14, SMALL["hidden_size"])
    known = {"dycoke": dycoke, "lm": lm, "mask": mask, "embeds": embeds, "attention_mask": torch.ones(1, 14).long()}
    exec(block, known)
    said, kept = capsys.readouterr().out.splitlines()
    assert "first_layer=3" in said
    kept = json.loads(kept)
    assert len([column for column in kept if 2 <= column < 12]) == int(10 * (1 - 0.7))
    assert {0, 1, 12, 13} < set(kept) <= set(range(15)) and kept == sorted(kept)


def test_linked_files_exist():
    for name in re.findall(r"`([\w./]+/)`", README):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"\w+\.py\b", README.split("## The tree")[1].split("```")[1]):
        assert (ROOT / "dycoke" / name).is_file(), name


def test_benchmark_table_is_what_the_records_say():
    rows = re.findall(
        r"^\| (\d+) x (\d+) x (\d+) .*\| ([\d.]+) ms \| ([\d.]+) ms \| ([\d.]+) ms \|$", README, re.MULTILINE
    )
    records = {}
    for file in (ROOT / "results" / "bench").glob("compress_*.json"):
        record = json.loads(file.read_text())
        records[tuple(str(record["setting"][size]) for size in ("frames", "tokens", "dim"))] = record
    assert {tuple(row[:3]) for row in rows} == set(records) and rows
    for *sizes, torch_ms, triton_ms, floor_ms in rows:
        record = records[tuple(sizes)]
        medians = {row["version"]: row["median_ms"] for row in record["results"]}
        said = (float(torch_ms), float(triton_ms), float(floor_ms))
        assert said == tuple(round(value, 3) for value in (medians["torch"], medians["triton"], record["floor_ms"]))
        assert record["device"] == "NVIDIA H200" and record["commit"]
