"""The folder of a run: what it is, its samples as they come, and its metrics, which are whole once it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dycoke.eval.runs.specs import RunSpec
from dycoke.lab.jsonl import read_lines
from dycoke.lab.record import write_record, write_text
from dycoke.text.bounded_yaml import read_yaml, write_yaml
from dycoke.text.brief import brief

EXPERIMENT = "experiment.yaml"
RESERVED = ("tables", "plots", "logs")  # folders of an experiment that are no runs
METRICS = ("run", "scores", "samples", "fingerprint", "shape", "usage", "made")
_CIRCUMSTANTIAL = ("launcher", "label", "paper", "made")  # may change without changing what is measured
_LATER = ("reader", "sampling")  # older folders do not say


@dataclass(frozen=True)
class RunFolder:
    """results/EXPERIMENT/RUN."""

    path: Path

    @classmethod
    def of(cls, results: Path, spec: RunSpec) -> RunFolder:
        return cls(results / spec.experiment / spec.id)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    def judgements_of(self, rank: int, world: int) -> Path:
        """What the judge said of the answers of one of several processes."""
        return self.path / ("judgements.jsonl" if world == 1 else f"judgements.rank{rank}.jsonl")

    @property
    def complete(self) -> bool:
        """Whether its metrics are there, and whole: a lost machine may leave a file with nothing in it."""
        try:
            found = json.loads(self.metrics.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(found, dict) and all(key in found for key in METRICS)

    @property
    def damaged(self) -> bool:
        """Whether there is a file of metrics that is not whole."""
        return self.metrics.exists() and not self.complete

    def samples_of(self, rank: int, world: int) -> Path:
        """Where one of several processes writes its samples; all of them go to `samples` in the end."""
        return self.samples if world == 1 else self.path / f"samples.rank{rank}.jsonl"

    def start(self, spec: RunSpec, made: dict[str, Any]) -> None:
        """Write what the run is, unless the folder says so already. Raises ValueError if it holds another run."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.config.is_file():
            self.check(spec)
            return
        write_text(self.config, write_yaml(spec.config() | {"made": made}))

    def check(self, spec: RunSpec) -> None:
        """Raise ValueError if the folder was made with other settings than those of `spec`."""
        if not self.config.is_file():
            return
        there, asked = self.read_config(), json.loads(json.dumps(spec.config()))
        for key in asked:
            unsaid = key in _LATER and key not in there
            if key not in _CIRCUMSTANTIAL and not unsaid and there.get(key) != asked[key]:
                raise ValueError(
                    f"{self.path} was made with {key}={brief(there.get(key))}, the experiment now says "
                    f"{brief(asked[key])}: give the experiment another name, or remove that folder to run it anew"
                )

    def read_config(self) -> dict[str, Any]:
        """What the folder says of its run. Raises ValueError if that cannot be read."""
        try:
            content = read_yaml(self.config)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.config}: cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.config}: expected a mapping")
        return content

    def read_metrics(self) -> dict[str, Any]:
        """The metrics of a complete run. Raises ValueError if they cannot be read."""
        try:
            return json.loads(self.metrics.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.metrics}: cannot be read: {error}") from error

    def read_samples(self) -> list[dict[str, Any]]:
        """All samples on disk, each once, by task and doc_id; a line that was cut off does not count."""
        found = {}
        for file in sorted(self.path.glob("samples*.jsonl")):
            for sample in read_lines(file, ("task", "doc_id", "prompt")):
                found[sample["task"], sample["doc_id"], sample["prompt"]] = sample
        return sorted(found.values(), key=lambda sample: (sample["task"], sample["doc_id"]))

    def read_judgements(self) -> list[dict[str, Any]]:
        """All that the judge said, each once."""
        found = {}
        for file in sorted(self.path.glob("judgements*.jsonl")):
            found |= {line["of"]: line for line in read_lines(file, ("of", "judged"))}
        return [found[of] for of in sorted(found)]

    def count_samples(self) -> int:
        """Lines of samples on disk, not looked into."""
        return sum(file.read_bytes().count(b"\n") for file in self.path.glob("samples*.jsonl"))

    def finish(self, samples: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
        """Put all samples and all judgements in one file each, and then the metrics beside them."""
        judgements = self.read_judgements()
        for file, lines in ((self.samples, samples), (self.judgements_of(0, 1), judgements)):
            if lines:
                write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
        for file in self.path.glob("*.rank*.jsonl"):
            file.unlink()
        write_record(self.metrics, metrics)
