"""Numbers on the pages are those of the records in results/."""

from __future__ import annotations

import json
import re

from dycoke.engine import weights as joined
from dycoke.model_shape import LLAVA_ONEVISION
from dycoke.ops.layer.skinny_linear import FEW_ROWS
from dycoke.registry import available, entry
from dycoke.report import STAGES
from tests.docs.pages import ROOT, cells, prose, text_of

ENGINE, COMPRESS, DECODE, VIDEO = (f"docs/benchmarks/{name}.md" for name in ("engine", "compress", "decode", "video"))
ADAPTIVE = "docs/guide/methods.md"


def record_of(name: str) -> dict:
    return json.loads((ROOT / "results" / "bench" / f"{name}.json").read_text())


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def ratio(part: dict, name: str) -> str:
    return f"{next(row['of_medians'] for row in part['ratios'] if row['ratio'] == name):.2f}"


def by_version(part: dict) -> dict[str, dict]:
    return {row["version"]: row for row in part["results"]}


def test_the_table_of_the_readme_is_what_the_records_say():
    record, many = record_of("engine_h200_7b"), later_batches()[-1]
    first, decode, rows = by_version(record["first_token"]), by_version(record["decode"]), by_version(many)
    assert many["rows"] == 64 and record["setting"]["frames"] == 32 and record["setting"]["dtype"] == "bfloat16"
    versions = (("stock_sdpa", "stock_static_graph"), ("engine_full",) * 2, ("engine_dycoke",) * 2)
    table = [row for row in cells("README.md") if row[1:2] and re.fullmatch(r"\d+ ms", row[1])]
    assert len(table) == len(versions)
    for (version, batched), row in zip(versions, table, strict=True):
        told = [f"{first[version]['median_ms']:.0f} ms", f"{decode[version]['median_ms']:.2f}"]
        assert row[1:] == [*told, f"{rows[batched]['tokens_per_s']:.0f}"]
    words = [" ".join(row[0].split()[:2]) for row in table]
    assert words == ["stock transformers", "our engine,", "our engine,"] and "DyCoke" in table[2][0]
    k, l, p = (record["setting"][name] for name in "klp")  # noqa: E741
    assert f"K = {k}, L = {l}, P = {p}" in table[2][0]
    assert "where stock is a static cache in a CUDA graph" in prose("README.md")
    assert "no real checkpoint was timed or scored here" in prose("README.md")


def test_decode_tables_are_what_the_record_says():
    record, said = record_of("decode_h200"), prose(DECODE)

    def medians(results: list[dict]) -> dict[str, str]:
        return {row["version"]: f"{row['median_ms']:.3f} ms" for row in results}

    graphs, eager = (medians(record["step"][loop]["results"]) for loop in ("graphs", "eager"))
    attention = medians(record["attention"]["results"])
    speeds = {row["version"]: f"{row['gb_per_s']:.0f} GB/s" for row in record["attention"]["results"]}
    memory = {
        row["version"]: [f"{row['measured_bytes'] / 2**20:.1f}", f"{row['measured_share']:.1%}"]
        for row in record["memory"]["results"]
    }
    told = [row[1:] for row in cells(DECODE)]
    for version in ("stock_untouched", "full_untouched"):
        assert ["6302", graphs[version], ""] in told
    for version in ("stock", "full", "dp"):
        assert ["2990", graphs[version], eager[version]] in told
    for version in ("dense", "torch_sdpa", "dp_carried_on"):
        assert [attention[version], speeds[version]] in told
    assert all(row in told for row in memory.values()) and len(memory) == 4

    ratios = {row["ratio"]: row for row in record["step"]["graphs"]["ratios"]}
    low, high = ratios["dp / full"]["range"]
    assert f"costs {percent(ratios['dp / full']['of_medians'] - 1)}" in said
    assert f"rounds {low:.4f} to {high:.4f}" in said
    host_bound = {row["ratio"]: row["of_medians"] for row in record["step"]["eager"]["ratios"]}
    assert f"({host_bound['full / stock']:.2f} times per step, and {host_bound['dp / stock']:.2f} with pruning)" in said
    once, always = (each["ratios"][0]["of_medians"] for each in record["memory"]["decoding"])
    assert f"{once:.2f} times as long where nothing is chosen anew and {always:.2f} times where all steps do" in said
    faster = {row["ratio"]: row["of_medians"] for row in record["attention"]["ratios"]}
    assert f"**{faster['dense / dp_carried_on']:.2f} times**" in said
    assert f"**{memory['dp_host'][1][:-1]} %**" in said


def test_the_copy_for_many_rows_is_as_large_as_told():
    shape, said = LLAVA_ONEVISION["7b"], prose("docs/guide/engine.md")
    copied = 2 * shape.layers * shape.hidden * (shape.hidden + 2 * shape.kv_heads * shape.head_dim)
    assert f"Batches of more than {FEW_ROWS} rows read a copy" in said
    assert f"({copied / 1e9:.1f} GB at 7B), where that is at most {joined.SHARE:.0%}".replace("%", " %") in said


def later_batches() -> list[dict]:
    """Those of the run behind the one that the other tables are from."""
    record = record_of("engine_h200_7b_batch")
    assert record["complete"] and record["commit"] and "H200" in record["device"]
    assert f"behind {record['setting']['warm_up']:.0f} s of warm-up" in prose(ENGINE)
    return record["batch"]["batches"]


def test_engine_tables_are_what_the_record_says():
    record = record_of("engine_h200_7b")
    assert record["complete"] and record["commit"] and "H200" in record["device"]
    decode, first, answer = (by_version(record[part]) for part in ("decode", "first_token", "answer"))
    rows = cells(ENGINE)
    told = {(row[0].split("`")[1], len(row), row[-1]): row[1:] for row in rows if "`" in row[0]}

    def whole(results: dict, version: str) -> str:
        return f"{results[version]['median_ms']:.0f} ms" if version in results else ""

    for version, row in decode.items():
        said = [whole(first, version), f"{row['median_ms']:.2f} ms", f"{row['of_floor']:.2f}x", whole(answer, version)]
        assert told[version, 5, said[-1]] == said
    for version, row in first.items():
        stages = [(row["stages_ms"].get(name), row["shares"].get(name)) for name in (*STAGES[:3], "rest")]
        said = ["" if ms is None else f"{ms:.1f} ms ({share:.1%})" for ms, share in stages]
        assert told[version, 5, said[-1]] == said
    batches = later_batches()
    assert [batch["rows"] for batch in batches] == [1, 4, 16, 64]
    for version in ("stock_static_graph", "engine_full", "engine_dycoke"):
        found = [by_version(batch)[version] for batch in batches]
        said = [f"{row['tokens_per_s']:.0f} ({row['of_floor']:.2f}x)" for row in found]
        assert told[version, 5, said[-1]] == said


def test_engine_claims_are_what_the_record_says():
    record, small, said = record_of("engine_h200_7b"), record_of("engine_h200_05b"), prose(ENGINE)
    stock, own = "stock_sdpa / engine_dycoke", "engine_full / engine_dycoke"
    first, answer, decode = (record[part] for part in ("first_token", "answer", "decode"))
    many = later_batches()[-1]
    assert f"**{ratio(first, stock)} times** sooner than stock transformers" in said
    assert f"64 tokens **{ratio(answer, stock)} times** sooner" in said
    ours = by_version(decode)["engine_dycoke"]
    assert f"**{ours['median_ms']:.2f} ms**, {ours['of_floor']:.2f} times" in said
    assert f"are {ratio(first, own)}, {ratio(answer, own)} and {ratio(decode, own)} times" in said
    assert many["rows"] == 64
    assert f"**{ratio(many, own)} times** the tokens per second" in said
    full = "stock_sdpa / engine_full"
    assert f"{ratio(first, full)} times faster to the first token, {ratio(decode, full)} times per token" in said
    share = by_version(first)["engine_dycoke"]["shares"]["compress"]
    assert f"is {percent(share)} of the time to the first one" in said
    logits = record["parity"]["logits"]
    assert f"at most {max(logits['max_by_step']):.3f} from" in said and logits["top1_agreement"] == 1
    steps = by_version(small["batch"]["batches"][0])
    full, pruned = steps["engine_full"], steps["engine_dycoke"]
    assert f"{full['median_ms']:.2f} ms with all tokens and {pruned['median_ms']:.2f} ms with DyCoke" in said
    assert f"{full['of_floor']:.1f} and {pruned['of_floor']:.1f} times its floor" in said


def test_claims_of_two_gpus_are_what_the_record_says():
    record, said = record_of("engine_h200_x2_72b"), prose(ENGINE)
    assert record["complete"] and record["commit"] and record["gpus"] == 2 and record["setting"]["shape"] == "72b"
    first, answer = (ratio(record[part], "stock_sdpa / engine_dycoke") for part in ("first_token", "answer"))
    assert f"has its first token {first} times sooner" in said
    tokens = record["setting"]["answer"]
    assert f"an answer of {tokens} tokens {answer} times sooner" in said
    steps = by_version(record["decode"])
    assert steps["engine_dycoke"]["loop"].startswith("stock")
    ours, stock = (steps[version]["median_ms"] for version in ("engine_dycoke", "stock_sdpa"))
    assert f"{ours:.1f} ms per token against {stock:.1f} ms of stock" in said


def test_methods_tables_are_what_the_records_say():
    record, said = record_of("methods_h100"), prose(COMPRESS)
    for row in record["methods"]:
        assert [f"`{row['method']}`", str(row["kept_tokens"]), f"{row['median_ms']:.2f} ms"] in cells(COMPRESS)
        assert row["runs"] == 100
    over = [row for row in record["methods"] if row["median_ms"] > 5]
    assert [row["method"] for row in over] == ["flashvid"]
    assert "quartiles are {:.2f} and {:.2f} ms, is over the limit".format(*over[0]["iqr_ms"]) in said
    recorded = [row["method"] for row in record["methods"]]  # a method may be newer than the record
    assert recorded == [n for n in available() if "before" in entry(n).stages and n in recorded]
    setting = record["setting"]
    assert (setting["frames"], setting["tokens"], setting["dim"], setting["warm_up"]) == (32, 196, 3584, 40)
    assert "H100" in record["device"] and record["commit"]
    assert f"of {record['tower']['patches']} patches: {record['tower']['median_ms']:.1f} ms" in said


def test_merging_table_is_what_the_records_say():
    rows = re.findall(
        r"^\| (\d+) x (\d+) x (\d+) .*\| ([\d.]+) ms \| ([\d.]+) ms \| ([\d.]+) ms \|$", text_of(COMPRESS), re.MULTILINE
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
    kernel = by_version(record_of("compress_h200"))["triton"]["median_ms"]
    assert f"(32 x 196 x 3584) takes **{kernel:.3f} ms**" in prose(COMPRESS)


def test_video_table_is_what_the_records_say():
    found = {}
    for name in ("video_16cores", "video_16cores_two_hours"):
        record = record_of(name)
        assert record["cores"] == 16 and record["commit"]
        for clip in record["clips"]:
            for row in clip["results"]:
                found[
                    clip["width"], "two hours" if "hours" in clip["name"] else "10 s", row["frames"], row["reader"]
                ] = row
    rows = [row for row in cells(VIDEO) if re.match(r"\d+ x", row[0])]
    assert len(rows) == 8
    for film, ours, *others in rows:
        width, length, frames = int(film.split()[0]), film.split(", ")[1], int(film.rpartition(" ")[2])
        read = found[width, length, frames, "pyav"]
        assert ours == f"{read['median_s']:.3f} s ({read['peak_bytes'] / 2**20:.0f} MiB)"
        for reader, cell in zip(("decord", "ffmpeg"), others, strict=True):
            row = found.get((width, length, frames, reader))
            if row is None or row["median_s"] is None:
                assert cell == "" or (row["failed"] and cell.startswith("refused")), (film, reader)
            else:
                assert cell == f"{row['median_s']:.3f} s", (film, reader)


def test_adaptive_table_is_what_the_record_says():
    record = json.loads((ROOT / "results" / "nano" / "compare.json").read_text())
    right = {(row["keep"], row["clip"], row["method"]): row["right"] / row["asked"] for row in record["results"]}
    columns = ("dycoke_adaptive", "dycoke", "random_drop", "uniform_frames")
    rows = re.findall(r"^\| (0\.\d+) \| (native|brief) \| (.*) \|$", text_of(ADAPTIVE), re.MULTILINE)
    assert len(rows) == 8
    for keep, clip, told in rows:
        shares = [right.get((float(keep), clip, method)) for method in columns]
        assert told.split(" | ") == ["-" if share is None else percent(share) for share in shares]
    asked = {row["clip"]: row["asked"] for row in record["results"]}
    assert "({native} in `native`, {brief} in `brief`)".format(**asked) in prose(ADAPTIVE)
    assert record["command"].replace("results/nano/", "") in text_of(ADAPTIVE)
