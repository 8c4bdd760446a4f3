"""``python -m lab``: runs the scenarios, prints a table, and fails where a promise was broken."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor

from lab.report import HEADER, failovers, line, write
from lab.run import Result, measure
from lab.scenarios import SCENARIOS


def main() -> int:
    """Runs what the command line asks for."""
    words = argparse.ArgumentParser(prog="lab", description=__doc__)
    words.add_argument("--scenario", choices=SCENARIOS, action="append", help="this one; may be given again")
    words.add_argument("--store", action="append", help="this one; may be given again")
    words.add_argument("--seed", type=int, help="of everything random; by default another one each time")
    words.add_argument("--operations", type=int, help="for each scenario and store")
    words.add_argument("--small", action="store_true", help="as many operations as in the tests")
    words.add_argument(
        "--at-once", type=int, default=1, help="so many runs side by side, by default one after the other"
    )
    words.add_argument("--write", action="store_true", help="write lab/results.md")
    asked = words.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    print(f"seed {seed}\n\n{HEADER}", flush=True)
    cells = [
        (name, store, seed, asked.operations or scenario.operations(store, is_small=asked.small))
        for name, scenario in SCENARIOS.items()
        for store in scenario.stores
        if name in (asked.scenario or SCENARIOS) and store in (asked.store or scenario.stores)
    ]
    results: list[Result] = []
    failed: list[tuple[str, str, int, int]] = []
    with ProcessPoolExecutor(asked.at_once) as pool:
        runs = [pool.submit(measure, *cell) for cell in cells] if asked.at_once > 1 else []
        for number, cell in enumerate(cells):
            try:
                result = runs[number].result() if runs else measure(*cell)
            except Exception:  # of the lab itself; the other runs are worth their time
                failed.append(cell)
                print(f"{cell[0]} on {cell[1]}: the lab itself failed", file=sys.stderr)
                traceback.print_exc()
                continue
            results.append(result)
            print(line(result), flush=True)
            if row := failovers(result):
                print(row, file=sys.stderr, flush=True)
            if result.broken:
                print(result.told(), file=sys.stderr, flush=True)
    if asked.write:
        write(results)
    return int(bool(failed) or any(result.broken for result in results))


if __name__ == "__main__":
    sys.exit(main())
