"""Where lmms-eval and datasets look for data when they are offline, and how to put a miniature there."""

from __future__ import annotations

from pathlib import Path

from tests.eval.miniatures.dataset import DataSet
from tests.eval.miniatures.videos import write_scene

COMMIT = "0123456789abcdef" * 2 + "01234567"  # of the hub's cache; any will do


def place(home: Path, data: DataSet) -> None:
    """Put a data set into HF_HOME, as if it had been loaded online once and its archives unpacked."""
    _place_rows(home / "datasets", data)
    files = home / data.folder if data.revision is None else _snapshot(home / "hub", data.name, data.revision)
    for name, number in data.videos.items():
        write_scene(files / name, number)
    for name, text in data.texts.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text, encoding="utf-8")


def _place_rows(cache: Path, data: DataSet) -> None:
    """Let datasets prepare the rows in its own cache, which is all that it reads offline.

    It would look into a downloaded snapshot of the data set only while it can ask the hub for its newest commit.
    """
    import datasets

    features = datasets.Features({key: _feature(datasets, kind) for key, kind in data.schema.items()})

    class Rows(datasets.GeneratorBasedBuilder):
        def _info(self):
            return datasets.DatasetInfo(features=features)

        def _split_generators(self, _):
            return [datasets.SplitGenerator(data.split)]

        def _generate_examples(self):
            yield from enumerate(data.docs)

    name = data.name.rsplit("/", 1)[-1]
    builder = Rows(str(cache), dataset_name=name, config_name=data.config, hash="miniature", repo_id=data.name)
    builder.download_and_prepare()


def _feature(datasets, kind: str | list[str]):
    return datasets.List(datasets.Value(kind[0])) if isinstance(kind, list) else datasets.Value(kind)


def _snapshot(hub: Path, name: str, revision: str) -> Path:
    """The folder of a data set's files in the hub's cache, at a revision."""
    repository = hub / f"datasets--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)
    return repository / "snapshots" / COMMIT
