"""The experiments of eval_configs: their runs, models, tasks, and what their heads say."""

from __future__ import annotations

import pytest

from dycoke.eval.benchmarks import BENCHMARKS
from dycoke.eval.runs.experiment import Experiment, load_experiment
from dycoke.lab.cost import SHAPES
from tests.cases import folded
from tests.eval.configs import FILES, NANO, layers_of, plan_of, runs_of

JUDGED = {"activitynetqa", "video_dc499"}

SMALL, MIDDLE, LARGE = (f"llava-onevision-qwen2-{size}-ov" for size in SHAPES)
SIX = "activitynetqa nextqa_mc_test perceptiontest_val_mc video_dc499 videomme videomme_w_subtitle"
FIVE = "mvbench videomme egoschema_subset longvideobench_val_v mlvu_dev"
DYCOKE = "dycoke-k{}-l3-p0.7"
K3, K5, K7, K9 = (DYCOKE.format(k) for k in (0.3, 0.5, 0.7, 0.9))
TABLE3 = " ".join(
    f"f{frames}_{row}" for row in ("full", "prumerge-keep0.55", "fastv-k5-r0.65", K5, K7) for frames in (16, 32)
)
# Tasks, and the rows of each model, which are what run ids begin with.
RUNS = {
    "table1": (
        SIX,
        {
            SMALL: f"f32_full f32_fastv-k5-r0.65 f32_prumerge-keep0.55 f32_{K3} f32_{K5} f32_{K7}",
            MIDDLE: f"f32_full f32_fastv-k5-r0.65 f32_prumerge-keep0.55 f32_{K3} f32_{K5} f32_{K7}",
            LARGE: f"f32_full f32_fastv-k5-r0.55 f32_prumerge-keep0.55 f32_{K5} f32_{K7}",
        },
    ),
    "table2": (
        "mvbench",
        dict.fromkeys((SMALL, MIDDLE), f"f16_full f16_prumerge-keep0.55 f16_fastv-k5-r0.65 f16_{K5} f16_{K7}"),
    ),
    "table3": ("mvbench", dict.fromkeys((SMALL, MIDDLE), TABLE3)),
    "table4": ("video_dc499", {MIDDLE: f"f32_full f32_{K5} f32_{K7}"}),
    "table5": (
        SIX,
        {
            MIDDLE: f"f32_{K7}-decodeone_shot f32_{K7}-decoderandom f32_{K7} f32_dycoke-k0.7-l10-p0.7 "
            "f32_dycoke-k0.7-l3-p0.9 f32_dycoke-k0.9-l1-p0.9"
        },
    ),
    "table6": ("videomme", {MIDDLE: f"f16_full f32_full f32_{K7}"}),
    "figure5": (
        "videomme",
        {MIDDLE: " ".join(f"f{frames}_{row}" for row in ("full", K3, K5, K7, K9) for frames in (8, 16, 32, 64))},
    ),
    "rivals": (
        FIVE,
        {
            MIDDLE: f"f32_full f32_{K7} f32_dycoke-k1.0-l3-p0.7 f32_dynamic_pruning-layer3-p0.75 "
            "f32_dynamic_pruning-layer3-p0.9 f32_dycoke_adaptive-keep0.25 f32_dycoke_adaptive-keep0.1 "
            "f32_random_drop-keep0.25 f32_random_drop-keep0.1 f32_uniform_frames-keep0.25 f32_uniform_frames-keep0.1 "
            "f32_fastv-k2-r0.81 f32_fastv-k2-r0.97 f32_fastvid-keep0.25 f32_fastvid-keep0.1 "
            "f32_flashvid-keep0.25-treespublished f32_flashvid-keep0.1-treespublished f32_framefusion-cost0.25 "
            "f32_framefusion-cost0.1 f32_holitom-keep0.3 f32_holitom-keep0.12-tau0.65 f32_pdrop-layers2-6-8-keep0.5 "
            "f32_pdrop-layers2-6-8-keep0.165 f32_prumerge-keep0.25 f32_prumerge-keep0.1 f32_prumerge_plus-keep0.25 "
            "f32_prumerge_plus-keep0.1 f32_prunevid-keep0.39 f32_prunevid-keep0.16 f32_sparsevlm-keep0.17 "
            "f32_sparsevlm-keep0.047-layers1-3-8 f32_vidcom2-keep0.25 f32_vidcom2-keep0.1 f32_visionzip-keep0.25 "
            "f32_visionzip-keep0.1"
        },
    ),
}


@pytest.fixture(params=RUNS)
def experiment(request) -> Experiment:
    return load_experiment(FILES[request.param])


def test_the_list_of_runs_is_of_all_files():
    assert set(FILES) == {*RUNS, *NANO, "smoke"}


def test_runs(experiment):
    """Ids are pinned: with another one, what a folder holds is run again."""
    tasks, rows = RUNS[experiment.name]
    ids = [f"{model}_{row}__{task}" for model in rows for row in rows[model].split() for task in tasks.split()]
    assert [run.id for run in experiment.runs] == ids
    assert len(set(ids)) == len(ids)


@folded("name", FILES)
def test_every_method_builds_and_has_the_layers_it_names(name):
    for run in runs_of(name):
        plan, layers = plan_of(run), layers_of(run)
        assert all(pruner.layer < layers for pruner in plan.pruners), run.id
        assert plan.decode is None or plan.decode.first_layer < layers, run.id
        assert getattr(plan.before, "min_frames", 1) <= run.frames, run.id


@folded("name", FILES)
def test_rows_that_stand_together_have_labels_of_their_own(name):
    runs = runs_of(name)
    rows = {(run.model.name, run.frames, run.method.slug): run.method.label for run in runs}
    assert len({(model, frames, label) for (model, frames, _), label in rows.items()}) == len(rows)


def test_models_are_the_published_checkpoints_and_recipe(experiment):
    for run in experiment.runs:
        assert (run.model.id, run.model.pretrained) == ("llava_onevision", f"lmms-lab/{run.model.name}")
        assert run.model.args == {"conv_template": "qwen_1_5", "model_name": "llava_qwen"}
        assert run.launcher.device_map == ("auto" if run.model.name == LARGE else None)
        assert (run.batch_size, run.limit, run.launcher.count) == (1, None, 1)


def test_what_is_judged_is_told_at_the_top(experiment):
    head = FILES[experiment.name].read_text().partition("\ntitle:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    judged = {run.task for run in experiment.runs if run.score and BENCHMARKS[run.task].judged}
    assert judged in (set(), JUDGED)
    assert ("OPENAI_API_KEY=... MODEL_VERSION=gpt-4o-mini" in head.replace("\n# ", " ")) == bool(judged)


def test_generation_and_scores_are_asked_for_where_the_paper_does():
    for name in RUNS:
        runs = runs_of(name)
        assert {run.score for run in runs} == {name != "table4"}
        assert all(run.generation == ({"max_new_tokens": 1} if name == "table3" else {}) for run in runs)


@pytest.mark.slow
def test_tasks_are_those_of_lmms_eval():
    from dycoke.eval.runs.lmms_tasks import task_manager

    known = set(task_manager("llava_onevision").all_tasks)
    for name in FILES:
        assert not {run.task for run in runs_of(name)} - known, name
