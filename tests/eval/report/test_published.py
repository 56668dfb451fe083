"""Published numbers: all that were copied, unchanged, and how a report finds one."""

import pytest

from dycoke.eval.report import published as module
from dycoke.eval.report.published import published, published_table

SMALL, MIDDLE, LARGE = (f"llava-onevision-qwen2-{size}-ov" for size in ("0.5b", "7b", "72b"))
K3, K5, K7 = (f"dycoke_k{k}_l3_p0.7" for k in (0.3, 0.5, 0.7))
TABLE1 = (
    "retained_final flops_t flops_ratio activitynetqa_acc activitynetqa_score nextqa_mc_test perceptiontest_val_mc "
)
TABLE1 += "video_dc499 videomme videomme_w_subtitle"
# As printed, row by row, times of day included; - is a cell that was not copied.
PRINTED = {
    ("table1", SMALL, TABLE1): {
        "full": "100 3.4 100 47.93 2.66 57.2 49.1 2.86 44.1 43.5",
        "fastv": "35 1.4 41 46.74 2.58 56.5 49.1 2.36 42.0 41.4",
        "prumerge": "55 1.5 44 41.68 2.35 54.0 47.5 2.10 38.8 39.3",
        K3: "23.25 2.4 70 47.90 2.65 57.2 48.9 2.63 45.4 43.8",
        K5: "18.75 1.8 53 47.80 2.65 57.2 49.5 2.62 45.1 43.4",
        K7: "14.25 1.2 35 47.70 2.65 57.7 49.5 2.56 45.2 43.3",
    },
    ("table1", MIDDLE, TABLE1): {
        "full": "100 41.4 100 51.93 2.86 79.4 57.1 3.30 58.5 61.3",
        "fastv": "35 17.9 43 50.93 2.80 78.2 56.7 3.09 57.3 60.5",
        "prumerge": "55 21.1 51 50.45 2.78 76.0 54.3 2.88 52.9 57.0",
        K3: "23.25 30.8 75 51.80 2.85 79.1 57.2 3.19 58.8 61.0",
        K5: "18.75 24.1 59 52.08 2.88 78.5 57.6 3.29 59.5 61.4",
        K7: "14.25 17.9 43 51.80 2.85 78.2 57.6 3.20 58.3 60.7",
    },
    ("table1", LARGE, TABLE1): {
        "full": "100 436.1 100 52.96 2.92 80.2 66.9 3.34 66.2 69.5",
        "fastv": "45 202.4 46 52.63 2.82 77.2 58.5 3.01 62.1 66.7",
        "prumerge": "55 229.8 53 50.91 2.80 75.2 55.6 2.81 61.9 63.8",
        K5: "18.75 262.5 60 52.81 2.92 79.1 60.2 3.35 66.3 69.7",
        K7: "14.25 195.1 44 52.38 2.88 78.8 59.6 3.27 64.9 68.7",
    },
    ("table2", SMALL, "mvbench flops_ratio"): {
        "full": "47.1 100",
        "prumerge": "42.5 -",
        "fastv": "46.1 -",
        K5: "47.0 -",
        K7: "47.1 -",
    },
    ("table2", MIDDLE, "mvbench flops_ratio"): {
        "full": "58.0 100",
        "prumerge": "52.6 51",
        "fastv": "56.1 43",
        K5: "58.0 59",
        K7: "57.5 43",
    },
    ("table3", MIDDLE, "total_s peak_gb mvbench seconds_per_example"): {
        "full_f16": "1:19:27 27 57.58 1.19",
        "prumerge_f16": "2:02:17 20 52.59 1.83",
        "fastv_f16": "1:03:50 24 56.05 0.96",
        f"{K5}_f16": "59:02 21 57.88 0.88",
        f"{K7}_f16": "57:13 19 57.45 0.85",
        "full_f32": "2:33:30 34 58.81 2.30",
        "prumerge_f32": "3:48:59 28 53.93 3.43",
        "fastv_f32": "1:55:20 30 58.36 1.73",
        f"{K5}_f32": "1:53:17 28 59.09 1.69",
        f"{K7}_f32": "1:39:49 24 59.56 1.49",
    },
    ("table4", MIDDLE, "decode_ms_per_token"): {"full": "42", K5: "35", K7: "31"},
    ("table5", MIDDLE, TABLE1.replace("flops_t flops_ratio ", "")): {
        "one_shot_instead_of_dynamic": "- 51.06 2.82 77.2 56.6 3.01 58.1 60.2",
        "random_pruning": "- 50.90 2.79 77.9 56.4 2.98 55.8 59.3",
        K7: "- 51.80 2.85 78.2 57.6 3.20 58.3 60.7",
        "dycoke_k0.7_l10_p0.7": "- - - - - 3.20 58.4 -",
        "dycoke_k0.7_l3_p0.9": "4.75 51.48 - - - 2.86 - -",
        "dycoke_k0.9_l0_p0.9": "3.25 40.21 - - - 2.76 57.8 -",
    },
    ("table6", MIDDLE, "flops_t videomme"): {
        "full_f16": "18.99 56.2",
        f"{K7}_f32": "17.91 58.3",
        "full_f32": "41.4 58.5",
    },
}


def number(cell):
    """The value of a printed cell; hours, minutes and seconds are seconds."""
    if cell == "-":
        return None
    total = 0.0
    for part in cell.split(":"):
        total = 60 * total + float(part)
    return total


@pytest.mark.parametrize("place", PRINTED, ids=lambda place: f"{place[0]}-{place[1].split('-')[3]}")
def test_every_number_is_the_printed_one(place):
    table, model, columns = place
    assert published_table(table)["columns"] == columns.split()
    rows = published_table(table)["models"][model]
    assert list(rows) == list(PRINTED[place])
    for row, cells in PRINTED[place].items():
        assert len(rows[row]) == len(columns.split())
        for column, cell in zip(columns.split(), cells.split(), strict=True):
            assert published(table, model, row, column) == number(cell), (row, column)


def test_there_is_nothing_else_in_the_tables():
    """Every model of every table is among those above."""
    tables = {table for table, _, _ in PRINTED}
    found = {(table, model) for table in tables for model in published_table(table)["models"]}
    assert found == {(table, model) for table, model, _ in PRINTED}
    with pytest.raises(ValueError) as error:
        published_table("none")
    assert sorted(str(error.value).rpartition("one of ")[2].split(", ")) == sorted(tables)


@pytest.mark.parametrize(
    "model", [f"lmms-lab/{MIDDLE}", f"/models/{MIDDLE}/", MIDDLE, f"llava-hf/{MIDDLE}-hf", f"./{MIDDLE}"]
)
def test_a_model_is_known_by_the_end_of_its_path(model):
    assert published("table1", model, K7, "videomme") == 58.3


@pytest.mark.parametrize(
    "model,row,column",
    [
        ("nano", "full", "videomme"),
        (f"{MIDDLE}-chat", "full", "videomme"),
        (f"{MIDDLE}/other", "full", "videomme"),
        (LARGE, K3, "videomme"),
        (MIDDLE, "dycoke_k0.9_l3_p0.7", "videomme"),
        (MIDDLE, "full", "mvbench"),
    ],
)
def test_what_is_not_printed_is_none(model, row, column):
    assert published("table1", model, row, column) is None


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match=r"^published table 'table7': expected one of table1, .*table6$"):
        published("table7", MIDDLE, "full", "videomme")


def test_without_a_checkout_the_error_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "TABLES", tmp_path / "tables.yaml")
    with pytest.raises(FileNotFoundError, match=r"tables\.yaml: no such file.*checkout") as error:
        published("table1", MIDDLE, "full", "videomme")
    assert len(str(error.value).splitlines()) == 1
