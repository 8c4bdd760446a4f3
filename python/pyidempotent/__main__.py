"""``python -m pyidempotent``: the command line."""

import sys

from pyidempotent.cli import main

if __name__ == "__main__":
    sys.exit(main())
