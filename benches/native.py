"""The native figures of `make bench`: requests per second through the tower layer, beside its rival in Rust.

Writes native.md here. Exits non-zero where a bar is missed that `KNOWN_MISSES` does not explain.
"""

from __future__ import annotations

import re
import subprocess

from load import GET, POST, Miss, Row, Subject, head, measure, table, write
from run import HERE, ROOT, machine

TARGET = ROOT / ".bench" / "native"

# What bounds a row.
_FLOOR = (
    "The request itself is most of the work: the row beside plain shows what a layer that costs nothing would reach."
)
_BODIES = "Bodies of any kind pass, hyper's and tonic's too: axum boxes each once more. The rival's pass as they are."
_DIGESTS = "The SHA-256 of its key and of its payload are 0.4 µs of it, the engine and the store 0.45 µs of a replay."

#: Rows whose bar is missed, and why. A row that is missed and not here fails the run.
KNOWN_MISSES: dict[tuple[str, str], str] = {
    ("memory, new key", "idempotent memory"): _FLOOR,
    ("memory, replay", "idempotent memory"): _FLOOR,
    ("Redis, new key", "idempotent redis"): "Both send two commands, and each is one write to Redis and one read.",
    ("Redis, replay", "idempotent redis"): "Both send one command, which is one write to Redis and one read.",
    ("Redis, replay", "one GET"): "The claim is a script; its record is parsed, and two SHA-256 are made before it.",
    ("no key", "plain"): _BODIES,
    ("GET", "plain"): _BODIES,
    ("a function on memory", "first"): _DIGESTS,
    ("a function on memory", "replay"): _DIGESTS,
}


def server(subject: str, store: str = "memory://") -> Subject:
    return Subject((str(TARGET / "release" / "native-bench"), "{port}"), {"SUBJECT": subject, "STORE": store})


SUBJECTS = {
    "plain": server("plain"),
    "memory": server("ours"),
    "redis": server("ours", "{redis}"),
    "idempotent memory": server("rival"),
    "idempotent redis": server("rival", "{redis}"),
    "one GET": server("floor", "{redis}"),
}

ROWS = [
    Row("memory, new key", POST, "new", "memory", {"idempotent memory": 1.3, "plain": None}),
    Row("memory, replay", POST, "same", "memory", {"idempotent memory": 1.4, "plain": None}),
    Row("Redis, new key", POST, "new", "redis", {"idempotent redis": 1.5, "plain": None}),
    Row("Redis, replay", POST, "same", "redis", {"idempotent redis": 1.3, "one GET": 1 / 1.15}),
    Row("no key", POST, "none", "redis", {"plain": 0.98, "idempotent redis": None}, is_close=True),
    Row("GET", GET, "same", "redis", {"plain": 0.98, "idempotent redis": None}, is_close=True),
]


def prepare() -> None:
    """Builds the servers. The rival asks for a newer Rust than it needs."""
    build = ["cargo", "build", "--release", "--locked", "--ignore-rust-version", "--quiet", "--target-dir", str(TARGET)]
    subprocess.run(build, cwd=HERE / "native", check=True)


#: A typed function on memory, by divan: its name in benches/engine.rs → what it is, and the most microseconds.
FUNCTIONS = {"function_first": ("first", 1.5), "function_replay": ("replay", 0.6)}


def functions() -> tuple[list[str], list[Miss]]:
    """What a function takes without a server, as Markdown, and which bars were missed."""
    bench = ["cargo", "bench", "--quiet", "-p", "idempotency", "--bench", "engine", "--", "function_"]
    printed = subprocess.check_output(bench, cwd=ROOT, text=True)
    lines, missed = ["", "| a function on memory, by itself | µs | bar | |", "|---|---|---|---|"], []
    for name, (what, most) in FUNCTIONS.items():
        # fastest │ slowest │ median
        median = re.search(rf"{name} +[^│]*│[^│]*│ +([\d.]+) (ns|µs|ms)", printed)
        assert median is not None, printed
        took = float(median[1]) * {"ns": 1e-3, "µs": 1, "ms": 1e3}[median[2]]
        lines.append(f"| {what} | **{took:.2f}** | under {most} | {'✓' if took < most else 'missed'} |")
        if took >= most:
            missed.append((("a function on memory", what), f"{took:.2f} µs, the bar is {most} µs"))
    return lines, missed


def main() -> None:
    """Prepares, measures, writes."""
    prepare()
    others = measure(ROWS, SUBJECTS)
    rust = " ".join(subprocess.check_output(["rustc", "--version"], text=True).split()[:2])
    lines, missed = table(ROWS)
    own, too_slow = functions()
    lines += [
        "",
        "The rival is idempotent 2.0.0 of crates.io with its defaults; all servers are axum's, on one runtime thread.",
    ]
    write("native.md", head("Native figures", machine(rust), others) + lines + own, missed + too_slow, KNOWN_MISSES)


if __name__ == "__main__":
    main()
