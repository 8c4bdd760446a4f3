"""`make bench`: what `transaction()` adds to a transaction, and what expired records cost the Postgres store, with a
release build. Writes transactions.md and expired.md here. Exits non-zero where a bar is missed.
"""

from __future__ import annotations

import subprocess
import sys

from run import HERE, ROOT, build_wheel, environment, machine
from transactions_alone import EACH, ROUNDS

NAME = "transactions-ours"

#: Each page: its heading, and what its figures are.
PAGES = {
    "transactions": (
        "What transaction() adds",
        f"Medians of {ROUNDS} interleaved rounds of {EACH} transactions, one at a time; in brackets least and most.",
    ),
    "expired": (
        "What expired records cost",
        "Medians of interleaved rounds of claims, one at a time, with `synchronous_commit=off`, which hides nothing.",
    ),
}


def main() -> None:
    """Prepares, measures, writes."""
    environment(NAME, ["psycopg[binary]>=3.2"])
    build_wheel(NAME)
    python = ROOT / ".bench" / NAME / "bin" / "python"
    status = 0
    for name, (heading, said) in PAGES.items():
        done = subprocess.run([python, HERE / f"{name}_alone.py"], stdout=subprocess.PIPE, text=True)
        status |= done.returncode
        if done.stdout:
            (HERE / f"{name}.md").write_text(f"# {heading}\n\n{said}\n{machine()}\n\n{done.stdout}")
            print(done.stdout)
    sys.exit(status)


if __name__ == "__main__":
    main()
