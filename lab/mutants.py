"""``python -m lab.mutants``: faults are sown into the product one after the other, and the lab must find each.

Each is made in a copy of the tree, with a build folder of its own that stays for the next one. A mutant that no
scenario finds makes it fail; so does one whose text is not in the code any more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import ROOT

SOURCES = "crates/idempotency/src"

#: The copy, and what is built of it.
COPY, BUILT = ROOT / "target" / "mutants" / "tree", ROOT / "target" / "mutants" / "built"


@dataclass(frozen=True)
class Mutant:
    """A fault in the product.

    Parameters:
        says: what is wrong.
        edits: the file below the core's sources, the text there, and the text in its place.
        found_by: scenarios and stores, of which one must find it; they are tried in this order.
        promises: what it breaks, of which one must be told.
        operations: how many each run gets.
    """

    says: str
    edits: tuple[tuple[str, str, str], ...]
    found_by: tuple[tuple[str, str], ...]
    promises: tuple[str, ...]
    operations: int = 300


#: A renewal, in Lua, that does not look at the token; and the same for a release.
_HEAD = "if string.sub(head, 1, 1) == 'F' and string.sub(head, 3) == ARGV[1] then"
_ANY_HEAD = "if string.sub(head, 1, 1) == 'F' then"

MUTANTS: dict[str, Mutant] = {
    "completion-without-token": Mutant(
        "Redis completes whatever stands there",
        (
            (
                "stores/redis/complete.lua",
                "if string.sub(held, 7, 22) ~= ARGV[1] then",
                "if false then",
            ),
            ("stores/redis/complete.lua", "if string.sub(held, 5, 5) ~= 'F' then", "if false then"),
        ),
        (("stops", "redis"),),
        ("P1", "P2"),
    ),
    "release-without-token": Mutant(
        "Redis releases whatever claim stands there",
        (("stores/redis/release.lua", _HEAD, _ANY_HEAD),),
        (("delays", "redis"), ("swallows", "redis"), ("stops", "redis")),
        ("P1",),
    ),
    "fence-restarts": Mutant(
        "Redis counts fences from 1 for each record",
        (
            ("stores/redis/claim.lua", "local fence = now", "local fence = 1"),
            (
                "stores/redis/claim.lua",
                "math.max(now, tonumber(string.sub(held, 23, 38)) + 1)",
                "tonumber(string.sub(held, 23, 38)) + 1",
            ),
        ),
        (("kills", "redis"),),
        ("P3",),
    ),
    "takeover-without-compare": Mutant(
        "Redis takes over whatever claim has little enough life left, not the one that was seen",
        (("stores/redis/claim.lua", "if held ~= ARGV[3] or left == -1", "if not ARGV[3] or left == -1"),),
        (("pieces", "redis"), ("kills", "redis")),
        ("P1", "P3"),
        600,
    ),
    "takeover-without-compare-in-rust": Mutant(
        "the step in Rust takes over whatever stands there, not the lapsed claim that was seen",
        (
            (
                "decide.rs",
                "(Some(held), Some(seen)) if held.record == *seen && held.is_lapsed(now) => seen.fence + 1,",
                "(Some(_), Some(seen)) if now > 0 => seen.fence + 1,",
            ),
        ),
        (("kills", "sqlite"),),
        ("P1", "P2", "P3"),
        600,
    ),
    "renewal-by-key": Mutant(
        "Redis renews whatever claim stands there",
        (("stores/redis/renew.lua", _HEAD, _ANY_HEAD),),
        (("late-claims", "redis"), ("stops", "redis")),
        ("P1", "P3", "P4"),
    ),
    "client-clock": Mutant(
        "SQLite's leases run on the wall clock of the process",
        (
            (
                "stores/sqlite/file.rs",
                '#[cfg(target_os = "linux")]\n        {\n            let now',
                "#[cfg(any())]\n        {\n            let now",
            ),
            (
                "stores/sqlite/file.rs",
                '#[cfg(not(target_os = "linux"))]\n        {\n            wall_clock()',
                "#[cfg(all())]\n        {\n            wall_clock()",
            ),
        ),
        (("clocks", "sqlite"),),
        ("P1", "P2"),
    ),
    "client-clock-on-redis": Mutant(
        "a process judges leases on Redis by its own clock, and Redis believes it",
        (
            (
                "stores/redis/mod.rs",
                "State::InFlight => now.saturating_add_signed((left - lapsed_at(&record)).saturating_mul(1000)),",
                "State::InFlight => (record.fence + record.lease + now).saturating_sub(crate::clock::wall_clock()),",
            ),
            ("stores/redis/claim.lua", "or left > tonumber(ARGV[4]) then", "or left > tonumber(ARGV[2]) then"),
        ),
        (("clocks", "redis"),),
        ("P1", "P2"),
    ),
    "answer-of-another-payload": Mutant(
        "a stored result is replayed whatever the payload is",
        (
            (
                "decide.rs",
                "if record.fingerprint != request.fingerprint {",
                "if record.fingerprint != request.fingerprint && record.state != State::Completed {",
            ),
        ),
        (("kills", "sqlite"), ("kills", "redis")),
        ("P7",),
    ),
    "claim-without-confirmation": Mutant(
        "with `replicas=1` a claim counts although no replica has it",
        (
            (
                "stores/redis/mod.rs",
                "self.confirm(written).await?;\n                    Ok(Claimed::Yes",
                "let _ = self.confirm(written).await;\n                    Ok(Claimed::Yes",
            ),
        ),
        (("far-side", "name-confirmed"),),
        ("P1", "P2", "P5"),
    ),
    "completion-without-token-in-rust": Mutant(
        "the step in Rust completes whatever claim stands there",
        (
            (
                "decide.rs",
                "Some(held) if held.record.token == token => match held.record.state {",
                "Some(held) if held.record.token == token || fence_clock > 0 => match held.record.state {",
            ),
        ),
        (("stops", "sqlite"),),
        ("P1", "P2"),
    ),
    "release-and-renewal-by-key-in-rust": Mutant(
        "the step in Rust releases and renews whatever claim stands there",
        (
            (
                "decide.rs",
                "held.record.state == State::InFlight && held.record.token == token)",
                "held.record.state == State::InFlight && (held.record.token == token || held.lease_end > 0))",
            ),
        ),
        (("stops", "sqlite"), ("kills", "sqlite")),
        ("P1", "P3", "P4"),
        600,
    ),
    "completion-without-token-on-postgres": Mutant(
        "Postgres completes whatever claim stands there",
        (
            (
                "stores/postgres/schema.sql",
                "UPDATE idempotency.records r SET record = new, lease_end = now, expires = now + life\n"
                "    WHERE r.key = this_key AND r.expires > now AND idempotency.is_claim(r.record, token);",
                "UPDATE idempotency.records r SET record = new, lease_end = now, expires = now + life\n"
                "    WHERE r.key = this_key AND r.expires > now;",
            ),
        ),
        (("stops", "postgres"),),
        ("P1", "P2"),
    ),
    "release-without-token-on-postgres": Mutant(
        "Postgres releases whatever stands there",
        (
            (
                "stores/postgres/schema.sql",
                "WHERE r.key = this_key AND r.expires > idempotency.clock() AND idempotency.is_claim(r.record, token);",
                "WHERE r.key = this_key AND r.expires > idempotency.clock();",
            ),
        ),
        (("delays", "postgres"), ("swallows", "postgres")),
        ("P1",),
    ),
    "takeover-without-compare-on-postgres": Mutant(
        "Postgres takes over whatever stands there, not the lapsed claim that was seen",
        (
            (
                "stores/postgres/schema.sql",
                "AND NOT coalesce(held = seen AND held_lease_end <= now, false) THEN",
                "AND seen IS NULL THEN",
            ),
            (
                "stores/postgres/schema.sql",
                "OR (held.record = seen AND held.lease_end <= now);",
                "OR seen IS NOT NULL;",
            ),
        ),
        (("kills", "postgres"), ("pieces", "postgres")),
        ("P1", "P2", "P3", "P5"),
        600,
    ),
}


def wrong_texts() -> list[str]:
    """The edits whose text is not in its file exactly once."""
    return [
        f"{name}: {file}"
        for name, mutant in MUTANTS.items()
        for file, old, _ in mutant.edits
        if (ROOT / SOURCES / file).read_text().count(old) != 1
    ]


def copy() -> None:
    """Makes the copy what the tree is; a file that is the same keeps its time, so that it is not built again."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    files = {Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()}
    there = {file.relative_to(COPY) for file in COPY.rglob("*") if file.is_file()} if COPY.exists() else set()
    for file in there - files:
        if "__pycache__" not in file.parts and file.suffix != ".so":
            (COPY / file).unlink()
    for file in files:
        if file not in there or (COPY / file).read_bytes() != (ROOT / file).read_bytes():
            (COPY / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, COPY / file)


def build() -> None:
    """Builds the copy's extension."""
    environment = {**os.environ, "PYO3_BUILD_EXTENSION_MODULE": "1", "PYO3_PYTHON": sys.executable}
    cargo = ["cargo", "build", "--quiet", "-p", "pyidempotent-native", "--target-dir", str(BUILT)]
    subprocess.run(cargo, cwd=COPY, env=environment, check=True)
    made = COPY / "python" / "pyidempotent" / "_native.abi3.so"
    made.unlink(missing_ok=True)
    shutil.copyfile(BUILT / "debug" / "lib_native.so", made)


@contextmanager
def sown(mutant: Mutant) -> Iterator[None]:
    """The copy with this fault, built."""
    files = {COPY / SOURCES / file for file, _, _ in mutant.edits}
    before = {file: file.read_text() for file in files}
    try:
        for file, old, new in mutant.edits:
            path = COPY / SOURCES / file
            path.write_text(path.read_text().replace(old, new))
        build()
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


def find(scenario: str, store: str, seed: int, operations: int) -> str:
    """What the copy's lab says of a run; empty where it found nothing."""
    asked = ["--scenario", scenario, "--store", store, "--seed", str(seed), "--operations", str(operations)]
    environment = {**os.environ, "PYTHONPATH": str(COPY / "python")}
    command = [sys.executable, "-m", "lab", *asked]
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode and "promises broken" not in done.stderr:
        raise RuntimeError(f"the lab itself failed:\n{done.stderr}")
    return done.stderr if done.returncode else ""


def hunt(name: str, mutant: Mutant, seed: int, tries: int) -> bool:
    """Sows a fault and lets the lab look for it; whether it was found."""
    began = time.monotonic()
    with sown(mutant):
        built = time.monotonic()
        for number in range(tries):
            for scenario, store in mutant.found_by:
                said = find(scenario, store, seed + number, mutant.operations)
                lines = [line for line in said.splitlines() if line.startswith(mutant.promises)]
                if lines:
                    took = f"built in {built - began:.0f} s, found in {time.monotonic() - built:.0f} s"
                    print(f"found: {name} by {scenario} on {store}, seed {seed + number} ({took})\n    {lines[0]}")
                    return True
    print(f"SURVIVED: {name}: {mutant.says}")
    return False


def main() -> int:
    """Hunts the mutants that the command line asks for."""
    words = argparse.ArgumentParser(prog="lab.mutants", description=__doc__)
    words.add_argument("names", nargs="*", help=f"by default all: {', '.join(MUTANTS)}")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--tries", type=int, default=3, help="with how many seeds each is looked for")
    asked = words.parse_args()
    if unknown := set(asked.names) - set(MUTANTS):
        words.error(f"no such mutants: {', '.join(sorted(unknown))}")
    if wrong := wrong_texts():
        print("the code has changed under these mutants:", *wrong, sep="\n    ", file=sys.stderr)
        return 1
    copy()
    build()
    found = []
    for name in asked.names or MUTANTS:
        found.append(hunt(name, MUTANTS[name], asked.seed, asked.tries))
        sys.stdout.flush()
    print(f"{sum(found)} of {len(found)} found")
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
