"""A process in a worker's place that loads nothing: makes what a job asks for, or does what its first argument says.

hang: the first run is made, and then nothing more. say: it fails with a word. silent: without one.
"""

import json
import sys
import time
from pathlib import Path

mode, path = sys.argv[1:]
job = json.loads(Path(path).read_text())
folder = Path(job["folder"])
print(mode, flush=True)
for number, run in enumerate(job["runs"]):
    if mode == "hang" and number:
        time.sleep(60)
    if mode == "say":
        (folder / "failed.0.json").write_text(json.dumps({"message": "out of luck"}))
    if mode in ("say", "silent"):
        sys.exit(1)
    (folder / "status.json").write_text(json.dumps({"run": run, "total": 3}))
    home = Path(job["results"]) / job["name"] / run
    home.mkdir(parents=True, exist_ok=True)
    whole = {key: {} for key in ("scores", "samples", "fingerprint", "shape", "usage", "made")}
    (home / "metrics.json").write_text(json.dumps({"run": run, **whole}))
