"""At the limits: what the operating system refuses, a store that is slow, lines that come too fast, and the exit."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from clients import until
from examples import load
from modes import at_once
from pyidempotent import IdempotencyNotKept, IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.custom import Step, TooLarge
from scripts import output
from servers import RedisServer

DictBackend = load("backends").DictBackend

NO_DESCRIPTORS = """
import asyncio, os, resource, sys
from pyidempotent import IdempotencyStoreUnavailable, idempotent

@idempotent(sys.argv[2], key="order")
def charge(order):
    return order

@idempotent(sys.argv[2], key="order")
async def charge_async(order):
    return order

def without_descriptors(call):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    try:
        call()
    except IdempotencyStoreUnavailable as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

if sys.argv[1] == "sync":
    without_descriptors(lambda: charge("a"))
    print(charge("b"))
else:
    async def main():
        charge("first")  # the store is in use; the loop is new to it
        refused = []
        def begin():
            try:
                charge_async("a").send(None)
            except StopIteration as stopped:
                print(stopped.value)
        without_descriptors(begin)
        print(await charge_async("b"))
    asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["sync", "async"])
def test_no_file_descriptor_at_the_first_use_is_an_error_that_passes(way: str, redis_server: RedisServer) -> None:
    refused, works = output(NO_DESCRIPTORS, way, redis_server.url).splitlines()
    assert "the operating system refuses" in refused
    assert works == "b"


NO_THREADS = """
import logging, resource, sys
from pathlib import Path
from pyidempotent import IdempotencyStoreUnavailable, idempotent

if len(sys.argv) > 2:  # the engine's own thread is there
    idempotent("memory://", key="order", name="other")(lambda order: order)("a")

@idempotent(sys.argv[1], key="order")
def charge(order):
    return order

logging.disable()  # that the store does not answer is said there too
limits = resource.getrlimit(resource.RLIMIT_AS)
status = Path("/proc/self/status").read_text().splitlines()
(size,) = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), limits[1]))  # a thread's stack takes more
try:
    charge("a")
except IdempotencyStoreUnavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(charge("b"))
"""


def test_no_thread_at_the_first_use_is_an_error_that_passes() -> None:
    refused, works = output(NO_THREADS, "memory://").splitlines()
    assert "the operating system refuses a thread" in refused
    assert works == "b"


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_no_thread_for_a_store_is_an_error_that_passes(store: str, redis_server: RedisServer, tmp_path: Path) -> None:
    urls = {"sqlite": f"sqlite:///{tmp_path}/records", "redis": f"redis://localhost:{redis_server.port}"}
    refused, works = output(NO_THREADS, urls[store], "later").splitlines()
    assert "Resource temporarily unavailable" in refused
    assert works == "b"


def test_lines_of_the_log_take_one_thread(caplog: pytest.LogCaptureFixture, redis_server: RedisServer) -> None:
    go, names = threading.Event(), set()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            names.add(threading.current_thread().name)
            go.wait(10)

    @idempotent(Small(), key="order")
    def charge(order: str) -> str:
        return "x" * 2000  # too large for the store: a line

    handler = Slow()
    logging.getLogger("pyidempotent").addHandler(handler)
    try:
        before = threading.active_count()
        for _ in range(200):
            charge(uuid.uuid4().hex)
            if threading.active_count() > before + 2:
                break
        assert threading.active_count() <= before + 1
        go.set()
        until(lambda: len([line for line in caplog.messages if "does not take the result" in line]) >= 100)
        assert len(names) == 1
    finally:
        go.set()
        logging.getLogger("pyidempotent").removeHandler(handler)


class Slow(DictBackend):
    """A store whose claims hang until they may go on."""

    time_limit = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.is_slow = False
        self.renewals = 0

    def claim(self, key: bytes, step: Step) -> None:
        if self.is_slow:
            self.go.wait(30)
        super().claim(key, step)

    def renew(self, key: bytes, step: Step) -> None:
        self.renewals += 1
        super().claim(key, step)

    complete = release = DictBackend.claim


def test_a_slow_store_holds_up_no_other_and_keeps_its_leases() -> None:
    slow, quick = Slow(), DictBackend()
    inside, done = threading.Event(), threading.Event()

    @idempotent(slow, key="order", lease=0.3)
    def charge(order: str) -> str:
        inside.set()
        assert done.wait(20)
        return order

    running = threading.Thread(target=charge, args=("runs",))
    running.start()
    assert inside.wait(10)
    slow.is_slow = True
    other = idempotent(slow, key="order", name="other")(lambda order: order)

    def refused(number: int) -> str:
        with pytest.raises(IdempotencyStoreUnavailable, match=r"500ms|than its time_limit"):
            other(f"order-{number}")
        return "refused"

    # More than the store has threads, and than an engine sends at once. Its callers are told within the time limit.
    assert at_once(300, refused) == ["refused"] * 300
    answers = [idempotent(quick, key="order", name="quick")(lambda order: order)(f"{number}") for number in range(20)]
    assert answers == [f"{number}" for number in range(20)]
    # Claims hang on every thread that they may take, and renewals go on.
    renewed = slow.renewals
    until(lambda: slow.renewals >= renewed + 3)
    done.set()
    running.join()  # its end is stored meanwhile
    assert len([value for value in slow._values.values() if b"runs" in value]) == 1
    slow.go.set()


def test_operations_of_a_store_that_hangs_for_good_fail_at_once() -> None:
    slow = Slow()
    slow.is_slow, slow.time_limit = True, 0.5

    async def main() -> list[str]:
        @idempotent(slow, key="order")
        async def charge(order: str) -> str:
            return order

        answers = await asyncio.gather(*(charge(f"{number}") for number in range(1500)), return_exceptions=True)
        return [str(answer) for answer in answers]

    first, second = asyncio.run(main()), asyncio.run(main())
    slow.go.set()
    assert len(first) == len(second) == 1500
    hangs = "28 operations have taken longer than its time_limit"
    # On a busy machine some are asked for only after that is known.
    assert {words.rpartition(": ")[2] for words in first} - {hangs, "1000 operations wait for it"} == {
        "claim() of the backend did not return within 500ms",
        "claim() was not called within 500ms",
    }
    assert {words.rpartition(": ")[2] for words in second} == {hangs}


class Small(DictBackend):
    """A store with a limit of its own."""

    def complete(self, key: bytes, step: Step) -> None:
        with self._lock:
            value = step(self._values.get(key))
            if value is not None and len(value) > 1000:
                raise TooLarge(f"{len(value)} bytes, and an item has at most 1000")
            self._values[key] = value


class Refusing(Small):
    """A store with a limit that it tells in words of its own."""

    def complete(self, key: bytes, step: Step) -> None:
        try:
            super().complete(key, step)
        except TooLarge as error:
            raise ValueError("validation failed") from error


@pytest.mark.parametrize("store", [Small, Refusing])
def test_a_result_that_the_store_can_never_take_is_not_kept(
    store: type[Small], caplog: pytest.LogCaptureFixture
) -> None:
    backend, ran = store(), []

    @idempotent(backend, key="order", lease=1)
    def charge(order: str) -> str:
        ran.append(order)
        return "x" * 2000

    assert charge("order-secret") == "x" * 2000

    def is_told() -> bool:
        try:
            charge("order-secret")
        except IdempotencyNotKept:
            return True
        except IdempotencyProcessing:
            return False
        raise AssertionError("a second body ran")

    until(is_told)
    assert ran == ["order-secret"]
    until(lambda: any("does not take the result" in line for line in caplog.messages))
    assert not any("order-secret" in line for line in caplog.messages), "the key may be the only secret"


LOGS_AND_ENDS = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stderr)
from pyidempotent import idempotent

@idempotent(sys.argv[1], key="order")
def charge(order):
    return order

charge(sys.argv[2])
"""


def test_a_process_that_ends_right_after_a_line_of_the_log_ends_well_and_the_line_is_there() -> None:
    with RedisServer("--maxmemory-policy", "allkeys-lru") as server:  # which is warned about, by the engine

        def end(number: int) -> tuple[int, bool]:
            command = [sys.executable, "-c", LOGS_AND_ENDS, server.url, str(number)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            return done.returncode, "may drop claims" in done.stderr

        for round in range(10):
            assert at_once(8, lambda number, round=round: end(8 * round + number)) == [(0, True)] * 8  # type: ignore[misc]


DAEMON = """
import sys, threading, time
from pyidempotent import idempotent
from pyidempotent.backends.redis import RedisBackend

@idempotent(RedisBackend(sys.argv[1], time_limit=0.5), key="order", wait=5)
def charge(order):
    return order

def calls():
    while True:
        try:
            charge("a")
            charge(str(time.time()))
        except Exception:
            pass

for _ in range(4):
    threading.Thread(target=calls, daemon=True).start()
time.sleep(0.2)
"""


def test_daemon_threads_in_a_call_do_not_abort_the_exit(redis_server: RedisServer) -> None:
    def end(_: int) -> tuple[int, str]:
        command = [sys.executable, "-c", DAEMON, redis_server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    for _ in range(3):
        assert at_once(4, end) == [(0, "")] * 4


HANGS = """
import time
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.custom import CustomBackend

class Hanging(CustomBackend):
    time_limit = 0.3

    def claim(self, key, step):
        while True:
            time.sleep(0.001)  # it comes back to the interpreter after its end

    renew = complete = release = claim

@idempotent(Hanging(), key="order")
def charge(order):
    return order

try:
    charge("a")
except IdempotencyStoreUnavailable:
    print("refused")
"""

CALLED_BACK = """
import threading, time
from pyidempotent import idempotent

@idempotent("memory://", key=lambda order: f"{order} of a function's own")
def charge(order):
    return order

def calls():
    number = 0
    while True:
        number += 1
        try:
            charge(f"{threading.get_ident()}-{number}")
        except Exception:
            return

for _ in range(4):
    threading.Thread(target=calls, daemon=True).start()
time.sleep(0.2)  # they are at it
"""

JOINED = """
import atexit, threading
running = threading.Event()

def calls():
    number = 0
    while True:
        number += 1
        try:
            charge(str(number))
        except IdempotencyStoreUnavailable as error:
            print(error)
            return
        running.set()

atexit.register(lambda: thread.join())  # before the import, and so after what the import registers
from pyidempotent import IdempotencyStoreUnavailable, idempotent

@idempotent("memory://", key="order")
def charge(order):
    return order

thread = threading.Thread(target=calls, daemon=True)
thread.start()
running.wait()
"""


@pytest.mark.parametrize(
    ("code", "said"), [(HANGS, "refused\n"), (CALLED_BACK, ""), (JOINED, "the interpreter is going away\n")]
)
def test_whoever_is_inside_when_the_interpreter_ends_does_not_abort_it(code: str, said: str) -> None:
    def end(_: int) -> tuple[int, str, str]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr if done.returncode else ""

    for _ in range(3):
        assert at_once(4, end) == [(0, said, "")] * 4
