"""Every benchmark in miniature: its own schema, synthetic videos, placed so that lmms-eval finds it offline.

python -m tests.eval.miniatures FOLDER      makes them under FOLDER, to be named as HF_HOME
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.eval.miniatures import choices, opens
from tests.eval.miniatures.dataset import DataSet
from tests.eval.miniatures.mvbench import MVBENCH
from tests.eval.miniatures.placing import place

FRAMES = 4  # that tests have a model read of a video

MINIATURES: dict[str, tuple[DataSet, ...]] = {
    "activitynetqa": (opens.ACTIVITYNETQA,),
    "nextqa_mc_test": (choices.NEXTQA,),
    "perceptiontest_val_mc": (choices.PERCEPTION_TEST,),
    "video_dc499": (opens.DESCRIPTIONS,),
    "videomme": (choices.VIDEO_MME,),
    "videomme_w_subtitle": (choices.VIDEO_MME,),
    "mvbench": MVBENCH,
    "egoschema_subset": (choices.EGOSCHEMA,),
    "longvideobench_val_v": (choices.LONGVIDEOBENCH,),
    "mlvu_dev": (choices.MLVU,),
}
"""The data sets of each task of lmms-eval; of the group mvbench, one for each sub-task."""


def make(home: Path) -> None:
    """Make every miniature under `home`; data sets that several tasks share are made once."""
    for data in {(each.name, each.config): each for sets in MINIATURES.values() for each in sets}.values():
        place(home, data)


def leaves(task: str) -> dict[str, DataSet]:
    """The data set of each leaf task of a task."""
    sets = MINIATURES[task]
    return {task: sets[0]} if len(sets) == 1 else {f"{task}_{each.config}": each for each in sets}


def environment(home: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a process finds the miniatures under `home` and nothing else."""
    elsewhere = ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LMMS_EVAL_DATASETS_CACHE")
    kept = {key: value for key, value in inherited.items() if key not in elsewhere}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    return kept | offline | {"HF_HOME": str(home.resolve())}
