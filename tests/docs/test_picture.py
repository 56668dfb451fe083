"""The picture of what is kept is what the script draws now."""

from __future__ import annotations

import importlib.util
import re
import sys

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import ROOT, prose

PICTURE = ROOT / "docs" / "images" / "kept.png"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("draw_kept", ROOT / "scripts" / "draw_kept.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # a dataclass looks its module up
        patch.setitem(sys.modules, "draw_kept", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept(script):
    return script.run()


@pytest.mark.slow
def test_the_picture_is_of_this_run(script, kept):
    drawn, committed = (
        np.asarray(image.convert("RGB"), dtype=int) for image in (script.draw(kept), Image.open(PICTURE))
    )
    assert drawn.shape == committed.shape and PICTURE.stat().st_size < 300_000
    assert (np.abs(drawn - committed).max(axis=2) > 8).mean() < 0.01, "python scripts/draw_kept.py docs/images/kept.png"


@pytest.mark.slow
def test_its_caption_has_the_runs_numbers(script, kept):
    caption = re.search(
        r"Of the (\d+) visual tokens of `(.*?)`, (\d+) reach .* from L = (\d+) on read (\d+) of", prose("README.md")
    )
    said = (script.VIDEO, str(kept.cached.size), str(kept.cached.sum()), str(script.OPTIONS["l"]), str(kept.read.sum()))
    assert caption.group(2, 1, 3, 4, 5) == said


def test_a_token_is_drawn_as_what_became_of_it(script):
    cached, read = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    cached[0], read[0, 0] = True, True
    cell = script._cell(np.full((8, 8, 3), (200, 0, 0), np.uint8), cached, read)
    half, quarter = script.CELL // 2, script.CELL // 4
    assert tuple(cell[quarter, quarter]) == tuple(cell[quarter, half + quarter]) == (200, 0, 0)
    assert tuple(cell[0, 0]) == script.OUTLINE and tuple(cell[0, half]) == (200, 0, 0)
    assert len(set(cell[half + quarter, quarter].tolist())) == 1  # grey
