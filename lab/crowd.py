"""A process of the lab that has very many calls at once: ``python -m lab.crowd OPTIONS``, a JSON object.

``mode``: ``leases`` holds so many claims at once, ``cancelled`` makes so many calls and cancels them, ``waiters``
lets so many wait for one answer, ``keys`` runs so many, 64 at once. It writes what it has measured: ``[name, value]``.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from pyidempotent import IdempotencyError, idempotent
from pyidempotent.backends.redis import RedisBackend

OPTIONS = json.loads(sys.argv[1])
COUNT, LEASE, TTL = OPTIONS["count"], OPTIONS["lease"], OPTIONS["ttl"]

backend = RedisBackend(OPTIONS["url"], time_limit=OPTIONS["time_limit"])
begun: set[str] = set()
opened = asyncio.Event()


def say(name: str, value: Any) -> None:
    """One line."""
    os.write(1, json.dumps([name, value]).encode() + b"\n")


def resident() -> float:
    """The memory of this process, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


protected = idempotent(backend, key="key", name="crowd", lease=LEASE, ttl=TTL)
patient = idempotent(backend, key="key", name="crowd", lease=LEASE, ttl=TTL, wait=60)


@protected
async def work(key: str) -> str:
    """Waits until it may end."""
    begun.add(key)
    await opened.wait()
    return key


@patient
async def wait_for(key: str) -> str:
    """Never runs: another one does."""
    begun.add("another")
    return key


@protected
async def echo(key: str) -> str:
    """Does nothing."""
    return key


async def until(number: int) -> None:
    """Returns when so many bodies run."""
    while len(begun) < number:
        await asyncio.sleep(0.01)


async def watch() -> None:
    """The longest that this loop was not scheduled."""
    longest, last = 0.0, time.monotonic()
    while not opened.is_set():
        await asyncio.sleep(0.05)
        longest, last = max(longest, time.monotonic() - last - 0.05), time.monotonic()
    say("longest pause", longest)


async def leases() -> None:
    """Holds claims until a line comes."""
    tasks = [asyncio.create_task(work(f"k{number}")) for number in range(COUNT)]
    await until(COUNT)
    watching = asyncio.create_task(watch())
    say("held", COUNT)
    used, since = time.process_time(), time.monotonic()
    await asyncio.to_thread(sys.stdin.readline)
    say("share of a core", (time.process_time() - used) / (time.monotonic() - since))
    opened.set()
    say("answered", len(set(await asyncio.gather(*tasks))))
    await watching


async def cancel(numbers: range) -> None:
    """Cancels calls: before their claim is answered, and in their bodies."""
    tasks = [asyncio.create_task(work(f"k{number}")) for number in numbers]
    await asyncio.sleep(0)  # their claims are on the wire
    for task in tasks[::2]:
        task.cancel()
    await until(len(begun) + len(tasks) // 2 if not begun else 0)
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def cancelled() -> None:
    """Cancels in batches, and looks whether the keys are free when a lease and a second have passed."""
    batch, before = 500, 0.0
    for first in range(0, COUNT, batch):
        await cancel(range(first, first + batch))
        if first == batch * 3:
            before = resident()
    last = time.monotonic()
    say("MiB more", resident() - before)
    opened.set()
    await asyncio.sleep(max(0.0, last + LEASE + 1 - time.monotonic()))
    stuck = 0
    for number in range(0, COUNT, max(1, COUNT // 500)):
        try:
            await work(f"k{number}")
        except IdempotencyError as error:
            stuck += 1
            say("stuck", f"k{number}: {type(error).__name__}")
    say("stuck keys", stuck)


async def waiters() -> None:
    """One works, the others wait for its answer."""
    leader = asyncio.create_task(work("k"))
    await until(1)
    before = resident()
    tasks = [asyncio.create_task(wait_for("k")) for _ in range(COUNT)]
    await asyncio.sleep(2 * LEASE)  # long enough for renewals, and for the polls of those who wait
    say("MiB more", resident() - before)
    opened.set()
    await leader
    since = time.monotonic()
    answers = await asyncio.gather(*tasks)
    say("last answer after", time.monotonic() - since)
    say("answered", answers.count("k"))
    say("bodies", len(begun))


async def keys() -> None:
    """Runs one key after the other, some at once."""
    numbers = iter(range(COUNT))
    done, before, since = 0, 0.0, time.monotonic()

    async def client() -> None:
        nonlocal done, before
        for number in numbers:
            await echo(f"k{number}")
            done += 1
            if done == COUNT // 10:
                before = resident()

    await asyncio.gather(*(client() for _ in range(64)))
    say("MiB more", resident() - before)
    say("seconds", time.monotonic() - since)
    say("answered", done)


if __name__ == "__main__":
    asyncio.run({"leases": leases, "cancelled": cancelled, "waiters": waiters, "keys": keys}[OPTIONS["mode"]]())
