"""The efficiency table of a report: times, memory and tokens, each of one run."""

from __future__ import annotations

from dycoke.eval.report.efficiency_table import efficiency_records, efficiency_table
from dycoke.eval.report.numbers import Published
from dycoke.eval.report.results import read_results
from tests.eval import run_folders
from tests.eval.report.report_cases import SMALL, small, table_of, texts


def test_efficiency_is_of_each_task_and_set_against_full(tmp_path):
    def change(spec, metrics):
        if spec.method.label == "Random":
            metrics["made"] = run_folders.MADE | {"device": "Another GPU"}
            metrics["usage"]["peak_bytes"] = metrics["usage"]["decode_ms_per_token"] = None
        return metrics

    small(tmp_path, change)
    table = table_of(tmp_path, efficiency_table)
    assert [section.heading.rpartition(", ")[2] for section in table.sections] == [
        "activitynetqa",
        "nextqa_mc_test",
        "mvbench",
    ]
    assert texts(table, "s/example") == ["2.000", "2.000", "1.400", "0.600", "2.000"]
    assert texts(table, "s/example", section=2)[0] == "1.000"
    assert texts(table, "Speed-up") == ["1.00", "1.00", "1.43", "3.33", "-"]
    assert table.notes == ("not on the device of full",)
    assert texts(table, "Total")[0] == "12.0 s"
    assert texts(table, "Peak memory (GiB)") == ["3.00"] * 4 + ["-"]
    assert texts(table, "decode (ms/token)") == ["4.00"] * 4 + ["-"]
    assert texts(table, "prefill (ms)")[0] == "40.00"
    tokens = [texts(table, f"Tokens {what}")[3] for what in ("made", "kept", "read a step")]
    assert tokens == ["1000.0", "300.0", "90.0"]
    assert "paper" not in table.headers  # a published time is that of one task
    found = read_results("small", tmp_path)
    record = next(r for r in efficiency_records(found, Published(found)) if r["column"] == "seconds_per_example")
    assert record["run"] == "llava-onevision-qwen2-7b-ov_f32_full__activitynetqa" and record["value"] == 2.0


def test_times_with_kept_videos_are_told_apart(tmp_path):
    kept = SMALL.replace("qwen2-7b-ov}", "qwen2-7b-ov, args: {encoder_cache: 50}}")
    for text, told in ((SMALL, False), (kept, True)):
        small(tmp_path / str(told), text=text)
        assert any("encoder_cache" in line for line in table_of(tmp_path / str(told), efficiency_table).foot) is told
