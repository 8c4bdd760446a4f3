"""Very many calls at once in one process, on Redis: what is measured is the process, and the leases from outside."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis

from lab import ROOT
from lab.checker import Broken
from lab.history import Identity
from lab.places import Place, Redis

TTL, TIME_LIMIT = 600.0, 5.0

NOBODY = Identity("crowd", "", "")

Seen = dict[str, Any]


class Crowd:
    """A process of `lab.crowd`."""

    def __init__(self, place: Place, mode: str, count: int, lease: float) -> None:
        assert isinstance(place, Redis)
        self.place, self.count, self.lease = place, count, lease
        options = {
            "url": place.url(0),
            "mode": mode,
            "count": count,
            "lease": lease,
            "ttl": TTL,
            "time_limit": TIME_LIMIT,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.crowd", json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> Iterator[tuple[str, Any]]:
        """What it says."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, value = json.loads(line)
            yield name, value

    def seen(self) -> Seen:
        """What it has said when it ends."""
        seen = dict(self.lines())
        if self.process.wait(60):
            raise RuntimeError(f"a crowd ended with {self.process.returncode}")
        return seen

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.__exit__(None, None, None)


def _broken(is_broken: bool, promise: str, what: str) -> list[Broken]:
    return [Broken(promise, what, NOBODY, ())] if is_broken else []


def leases(place: Place, count: int) -> tuple[Seen, list[Broken]]:
    """One process holds many claims for three leases; each lease is looked at in the server again and again."""
    lease = 10.0 if count >= 10_000 else 3.0
    with Crowd(place, "leases", count, lease) as crowd:
        said = crowd.lines()
        assert next(said) == ("held", count)
        assert isinstance(place, Redis)
        server = redis.from_url(place.server.url)
        names = list(server.scan_iter(count=1000))
        least, until = lease, time.monotonic() + 3 * lease
        while time.monotonic() < until:
            asked = server.pipeline(transaction=False)
            for name in names:
                asked.pttl(name)
            least = min(least, min(asked.execute()) / 1000 - TTL + lease)
        server.close()
        assert crowd.process.stdin is not None
        crowd.process.stdin.write("\n")
        crowd.process.stdin.flush()
        seen = crowd.seen()
    # A lease is renewed when a third of it has passed.
    seen["latest renewal (s)"] = max(0.0, lease * 2 / 3 - least)
    return seen, [
        *_broken(len(names) != count or seen["answered"] != count, "P1", f"of {count} claims {len(names)} were there"),
        # How late is a figure; that none ended is promised.
        *_broken(least <= 0 and seen["longest pause"] < lease / 2, "P4", "a lease ended while its work ran"),
    ]


def cancelled(place: Place, count: int) -> tuple[Seen, list[Broken]]:
    """Calls are cancelled while their claim is on the wire, and in their bodies."""
    with Crowd(place, "cancelled", count, 2.0) as crowd:
        seen = crowd.seen()
    return seen, [
        *_broken(
            seen["stuck keys"] > 0,
            "P4",
            f"{seen['stuck keys']} keys of cancelled calls were stuck: {seen.get('stuck')}",
        ),
        *_broken(seen["MiB more"] > 4 + count / 1000, "P4", f"{count} cancelled calls left {seen['MiB more']:.1f} MiB"),
    ]


def waiters(place: Place, count: int) -> tuple[Seen, list[Broken]]:
    """Many calls wait for one answer."""
    with Crowd(place, "waiters", count, 2.0) as crowd:
        seen = crowd.seen()
    return seen, [
        *_broken(seen["bodies"] != 1, "P1", f"{seen['bodies']} bodies ran"),
        *_broken(seen["answered"] != count, "P2", f"{seen['answered']} of {count} got the answer"),
    ]


def keys(place: Place, count: int) -> tuple[Seen, list[Broken]]:
    """Many keys run to their end; the process has no more memory afterwards."""
    with Crowd(place, "keys", count, 30.0) as crowd:
        seen = crowd.seen()
    assert isinstance(place, Redis)
    memory = next(line for line in place.server.cli("INFO", "memory").splitlines() if line.startswith("used_memory:"))
    seen["bytes in the server per key"] = int(memory.partition(":")[2]) / count
    return seen, _broken(seen["MiB more"] > 4 + count / 100_000, "P4", f"{count} keys left {seen['MiB more']:.1f} MiB")
