"""python -m tests.eval.miniatures FOLDER"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.eval import miniatures

parser = argparse.ArgumentParser(description=miniatures.__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
miniatures.make(parser.parse_args().folder)
