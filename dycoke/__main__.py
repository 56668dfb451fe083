"""`python -m dycoke` is the command `dycoke`."""

import sys

from dycoke.cli import main

sys.exit(main())
