"""What a sweep's process meets: tasks, data, checkpoints and methods that do not do, and a disk that is full."""

from __future__ import annotations

import io

import pytest

from dycoke.eval.runs.folder import RunFolder
from dycoke.eval.runs.job import Job
from tests.eval.launch.sweeping import SMOKE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("warm")]
pytest.importorskip("lmms_eval")


@pytest.fixture
def job_of(tmp_path):
    """The job of the smoke experiment with some texts in its file replaced by others."""

    def make(**texts: str) -> Job:
        content = SMOKE.read_text()
        for old, new in texts.items():
            assert old in content
            content = content.replace(old, new)
        file = tmp_path / "smoke.yaml"
        file.write_text(content)
        (tmp_path / "job").mkdir()
        from dycoke.eval.runs.experiment import load_experiment

        runs = tuple(run.id for run in load_experiment(file).runs)
        return Job(str(file), "smoke", str(tmp_path / "results"), runs, 1, str(tmp_path / "job"), {})

    return make


LOST = """
task: lost
dataset_path: json
dataset_kwargs: {data_files: {test: nothing.json}}
test_split: test
output_type: generate_until
doc_to_text: "question"
doc_to_target: "answer"
metric_list: [{metric: exact_match}]
"""


BAD = [
    ("nano_samples_long", "mvbnech", "task 'mvbnech': lmms-eval has no such task; did you mean mvbench"),
    ("nano_samples_long", "lost", "task lost: its data set cannot be loaded: "),
    ("nano_samples_long", "likely", "task likely: its output_type is loglikelihood; a sweep takes"),
    ("pretrained: nano", "pretrained: nowhere", "nowhere"),
    ("l: 5", "l: 20", "l=20"),
    ("llava_qwen, ", "llava_qwen, lib: 1, ", "unknown argument lib"),
    ("conv_template: qwen_1_5", "conv_template: qwen", "conv_template='qwen': expected one of "),
]


@pytest.mark.parametrize(("old", "new", "complaint"), BAD, ids=lambda text: text[:30])
def test_what_cannot_run_is_said_and_nothing_is_complete(job_of, tmp_path, no_waiting, old, new, complaint):
    from dycoke.eval.launch.worker import work

    (tmp_path / "lost.yaml").write_text(LOST)
    likely = LOST.replace("lost", "likely").replace("nothing", "docs").replace("generate_until", "loglikelihood")
    (tmp_path / "likely.yaml").write_text(likely)
    (tmp_path / "docs.json").write_text('[{"question": "Is it?", "answer": "Yes"}]')
    job = job_of(**{old: new, "title:": f"include_path: {tmp_path}\ntitle:", "k: 0.7, ": "", "  - full\n": ""})
    with pytest.raises((ValueError, OSError)) as caught:
        work(job)
    assert complaint in str(caught.value)
    assert not any(RunFolder(path).complete for path in tmp_path.glob("results/smoke/*"))


def test_a_folder_of_tasks_that_is_not_there_is_named():
    from dycoke.eval.runs.lmms_tasks import task_manager

    with pytest.raises(FileNotFoundError, match="include_path no/folder: no such folder"):
        task_manager("llava_onevision", ["no/folder"])


def test_a_full_disk_ends_the_run_and_nothing_half_written_counts(job_of, tmp_path):
    from dycoke.eval.launch.worker import work

    job = job_of()
    folder = RunFolder.of(tmp_path / "results", job.load()[1][0])
    folder.path.mkdir(parents=True)
    folder.samples.symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"nano_samples_short, doc_id \d+: .*No space left on device"):
        work(job)
    assert not folder.complete and not folder.read_samples()


class FullLog(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_the_reason_is_told_also_where_the_log_is_on_a_full_disk(job_of, monkeypatch):
    from dycoke.eval.launch import worker

    job = job_of()
    monkeypatch.setattr(worker, "work", lambda job: 1 // 0)
    monkeypatch.setattr("sys.stderr", FullLog())
    assert worker.main([str(job.write())]) == 1
    assert list(job.failures()) == ["ZeroDivisionError: integer division or modulo by zero"]


def test_all_rows_are_checked_against_the_loaded_model_before_the_first_one_answers(job_of, tmp_path):
    from dycoke.eval.launch.worker import work

    with pytest.raises(
        ValueError, match=r"do not fit their model: 'dycoke k=0.7 l=20 p=0.7' \(nano, 32 frames\): l=20: "
    ):
        work(job_of(**{"l: 5": "l: 20"}))
    assert not list(tmp_path.glob("results/**/samples*"))
