"""With a method, the answers are those of `dycoke.attach` and `generate`."""

from __future__ import annotations

import pytest

import dycoke
from tests.eval.models.asking import GREEDY, Doc, answer, picture
from tests.eval.models.conftest import METHODS, Models
from tests.eval.models.direct import Direct

LONG = dict(GREEDY, max_new_tokens=24)


@pytest.mark.parametrize("name", METHODS)
def test_videos(models: Models, asked, name):
    given, method = METHODS[name]
    found = answer(models.ours(**given, dtype="float32"), asked, generation=LONG)
    assert found == Direct(models).answer(asked, method, max_new_tokens=24)
    assert len(set(found)) == len(asked)
    if name != "full":
        assert found != answer(models.ours(method="full", dtype="float32"), asked, generation=LONG)


def test_a_plan(onevision: Models, asked, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("before: {name: visionzip, keep: 0.5}\ninside: {name: pdrop, layers: [1, 2]}\ndecode: dycoke\n")
    found = answer(onevision.ours(plan=str(file), dtype="float32"), asked)
    assert found == Direct(onevision).answer(asked, dycoke.load_plan(file))


def test_pictures_and_text(onevision: Models):
    asked = [
        Doc("Which differs?", (picture(1, (60, 40)), picture(2, (50, 130)))),
        Doc("What is it?", (picture(3, (120, 80)),)),
        Doc("How many legs has a dog?"),
    ]
    given, method = METHODS["dycoke"]
    assert answer(onevision.ours(**given, dtype="float32"), asked) == Direct(onevision).answer(asked, method)
