"""The fault lab: real processes and real servers, faults from outside, and a checker of what was promised.

It may import the product, and the tests' servers and proxy; nothing imports it but its own
tests. ``python -m lab`` runs it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "tests" / "support"))
