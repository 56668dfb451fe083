"""What a scripted model answers: the right answer to every other sample, a wrong one to the rest."""

from __future__ import annotations

from collections.abc import Callable

from tests.eval.miniatures import MINIATURES
from tests.eval.miniatures.asked import LETTERS
from tests.eval.miniatures.dataset import Doc

_MVBENCH = [f"mvbench_{each.config}" for each in MINIATURES["mvbench"]]
_RIGHT: dict[str, Callable[[Doc], str]] = {
    "activitynetqa": lambda doc: doc["answer"],
    "nextqa_mc_test": lambda doc: LETTERS[doc["answer"]],
    "perceptiontest_val_mc": lambda doc: LETTERS[int(doc["answer_id"])],
    "video_dc499": lambda doc: doc["answer"],
    "videomme": lambda doc: doc["answer"],
    "videomme_w_subtitle": lambda doc: doc["answer"],
    "egoschema_subset": lambda doc: LETTERS[int(doc["answer"])],
    "longvideobench_val_v": lambda doc: LETTERS[doc["correct_choice"]],
    "mlvu_dev": lambda doc: doc["answer"],
} | dict.fromkeys(_MVBENCH, lambda doc: LETTERS[doc["candidates"].index(doc["answer"])])


def right(leaf: str, doc: Doc) -> str:
    """The right answer to a sample: a letter, or the text where answers are open."""
    return _RIGHT[leaf](doc)


def is_right(leaf: str, doc_id: int) -> bool:
    """Whether the scripted model answers a sample rightly."""
    return (doc_id + (_MVBENCH.index(leaf) if leaf in _MVBENCH else 0)) % 2 == 0


def reply(leaf: str, doc_id: int, doc: Doc) -> str:
    """What the scripted model answers to a sample."""
    answer = right(leaf, doc)
    if is_right(leaf, doc_id):
        return answer
    return ("B" if answer == "A" else "A") if answer in LETTERS else "something else"
