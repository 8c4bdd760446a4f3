"""``python -m pyidempotent``: the command line."""

import sys

from pyidempotent.cli import main

sys.exit(main())
