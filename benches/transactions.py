"""`make bench`: what `transaction()` adds to a transaction, with a release build. Writes transactions.md here."""

from __future__ import annotations

import subprocess

from run import HERE, ROOT, build_wheel, environment, machine
from transactions_alone import EACH, ROUNDS

NAME = "transactions-ours"


def main() -> None:
    """Prepares, measures, writes."""
    environment(NAME, ["psycopg[binary]>=3.2"])
    build_wheel(NAME)
    python = ROOT / ".bench" / NAME / "bin" / "python"
    table = subprocess.check_output([python, HERE / "transactions_alone.py"], text=True)
    said = (
        f"Medians of {ROUNDS} interleaved rounds of {EACH} transactions, one at a time; in brackets the least and most."
    )
    text = f"# What transaction() adds\n\n{said}\n{machine()}\n\n{table}"
    (HERE / "transactions.md").write_text(text)
    print(table)


if __name__ == "__main__":
    main()
