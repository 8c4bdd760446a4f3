"""Backends of the user's own: the examples, what the suite says of broken ones, and what their errors become."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from examples import load
from modes import Mode, at_once
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.custom import CustomBackend, Step, expires_at
from pyidempotent.testing import check_backend
from scripts import output

backends = load("backends")
DictBackend: Any = backends.DictBackend


@pytest.fixture(params=["dict", "dbm"])
def make_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    if request.param == "dict":
        return DictBackend
    return lambda: backends.DbmBackend(tmp_path / "records")


def test_the_examples_keep_every_rule(make_backend: Callable[[], Backend]) -> None:
    check_backend(make_backend)


def test_built_in_backends_keep_every_rule(backend: Backend) -> None:
    check_backend(lambda: backend)


class Broken(DictBackend):
    """The example with its one step taken apart, so that each part can be wrong by itself."""

    def read(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def claim(self, key: bytes, step: Step) -> None:
        with self._lock:
            self.write(key, step(self.read(key)))

    renew = complete = release = claim


class OverwritesOnClaim(Broken):
    def claim(self, key: bytes, step: Step) -> None:
        with self._lock:
            self.write(key, step(None))


class DoesNotLock(Broken):
    def claim(self, key: bytes, step: Step) -> None:
        value = self.read(key)
        time.sleep(0.002)  # so that others come in between
        self.write(key, step(value))

    renew = complete = release = claim


class CompletesWithoutLooking(Broken):
    """As an upsert does: the last to complete wins."""

    def complete(self, key: bytes, step: Step) -> None:
        with self._lock:
            self.write(key, step(None) or step(self.read(key)))


class ReleasesWithoutLooking(Broken):
    def release(self, key: bytes, step: Step) -> None:
        with self._lock:
            step(self.read(key))
            self.write(key, None)


class DoesNotRenew(Broken):
    def renew(self, key: bytes, step: Step) -> None:
        step(self.read(key))


class ForgetsTooEarly(Broken):
    """Keeps a value for as long as it was first meant to be kept: an expiry that is inserted and never updated."""

    def __init__(self) -> None:
        super().__init__()
        self.expiry: dict[bytes, float] = {}

    def read(self, key: bytes) -> bytes | None:
        return self._values.get(key) if self.expiry.get(key, 0) > time.time() else None

    def write(self, key: bytes, value: bytes | None) -> None:
        before = self.read(key)
        super().write(key, value)
        if value is not None and before is None:
            self.expiry[key] = expires_at(value)
        elif value is None:
            self.expiry.pop(key, None)


class DropsLapsedClaims(Broken):
    """Takes the end of the lease for the end of the record."""

    def read(self, key: bytes) -> bytes | None:
        value = super().read(key)
        if value is None or value[12:13] != b"F":
            return value
        lease, ttl = (int.from_bytes(value[at : at + 8], "big") / 1e6 for at in (46, 54))
        return value if time.time() < expires_at(value) - ttl + lease else None


class HasACoarseClock(Broken):
    """Its clock stands still for a key for forty milliseconds, and so do the fences."""

    def claim(self, key: bytes, step: Step) -> None:
        with self._lock:
            clocks = self.__dict__.setdefault("clocks", {})
            if time.time() - clocks.get(key, 0) > 0.04:
                clocks[key] = time.time()
            self.write(key, step(self.read(key), now=clocks[key]))

    renew = complete = release = claim


class CutsValues(Broken):
    def write(self, key: bytes, value: bytes | None) -> None:
        super().write(key, value and value[:65_536])


class MixesKeys(Broken):
    def read(self, key: bytes) -> bytes | None:
        return super().read(key[:0])

    def write(self, key: bytes, value: bytes | None) -> None:
        super().write(key[:0], value)


class PurgesTheLiving(Broken):
    def purge(self) -> int:
        self._values.clear()
        return 0


class IsDown(Broken):
    def claim(self, key: bytes, step: Step) -> None:
        raise OSError("no route to the store")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OverwritesOnClaim, "a second claim on a live key must be refused"),
        (DoesNotLock, "of 50 claims at once exactly one holds"),
        (CompletesWithoutLooking, "a stored result is kept byte for byte and never changes"),
        (ReleasesWithoutLooking, "a refused release changes nothing"),
        (DoesNotRenew, "a renewed lease has not ended"),
        (ForgetsTooEarly, "`ttl` counts from the completion"),
        (DropsLapsedClaims, "a lapsed claim stays for its `ttl`"),
        (HasACoarseClock, "the fence grows across releases"),
        (CutsValues, "a stored result is kept byte for byte"),
        (MixesKeys, "a claim on a free key must succeed"),
        (PurgesTheLiving, "purge() removes only what has expired"),
        (IsDown, "claim() of IsDown failed: OSError: no route to the store"),
    ],
)
def test_a_broken_backend_is_told_what_is_wrong(
    broken: type[Backend], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError) as told:
        check_backend(broken)
    assert words in str(told.value)
    assert broken.__name__ in str(told.value)
    assert capfd.readouterr().err == "", "no panic is printed"


def protect(mode: Mode, backend: Backend, runs: list[str], **options: Any) -> Callable[[str], str]:
    def charge(order: str) -> str:
        runs.append(order)
        return f"charged {order}"

    return mode.protect(charge, backend, key="order", name="shop.charge", **options)


def test_a_call_runs_once_sync_and_async(mode: Mode, make_backend: Callable[[], Backend]) -> None:
    backend, runs = make_backend(), []
    charge = protect(mode, backend, runs, wait=10)
    assert at_once(20, lambda _: charge("a")) == ["charged a"] * 20
    assert runs == ["a"]
    record = backend.get("a", operation="shop.charge")
    assert record is not None
    assert record.state == "completed"
    assert not backend.resolve("a", operation="shop.charge", fence=record.fence), "it is completed"
    assert backend.resolve("a", operation="shop.charge", fence=record.fence, force=True)
    assert charge("a") == "charged a"
    assert runs == ["a", "a"]


def test_its_error_is_the_cause_of_what_the_caller_gets(mode: Mode) -> None:
    runs: list[str] = []
    with pytest.raises(IdempotencyStoreUnavailable, match=r"claim\(\) of IsDown failed: OSError: no route") as told:
        protect(mode, IsDown(), runs)("a")
    assert type(told.value.__cause__) is OSError
    assert told.value.__cause__.__traceback__ is not None
    assert runs == []


class Returns(Broken):
    def claim(self, key: bytes, step: Step) -> Any:
        super().claim(key, step)
        return True


class IsAsync(Broken):
    async def claim(self, key: bytes, step: Step) -> None:
        super().claim(key, step)


class DoesNothing(Broken):
    def claim(self, key: bytes, step: Step) -> None:
        pass


class HasText(Broken):
    def claim(self, key: bytes, step: Step) -> None:
        step("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Returns, "claim() of Returns must be a plain method that returns None; it returned a bool"),
        (IsAsync, "claim() of IsAsync must be a plain method that returns None; it returned a coroutine"),
        (DoesNothing, "claim() of DoesNothing must call the step that it is given"),
        (HasText, "a step is called with the bytes that stand under the key, or None, not with a str"),
    ],
)
def test_a_method_that_is_wrong_is_told_so(wrong: type[Backend], words: str, mode: Mode) -> None:
    runs: list[str] = []
    with pytest.raises(IdempotencyStoreUnavailable) as told:
        protect(mode, wrong(), runs)("a")
    assert words in str(told.value)
    assert runs == []


def test_a_class_without_its_four_methods_is_no_backend() -> None:
    class Half(CustomBackend):
        def claim(self, key: bytes, step: Step) -> None: ...

        renew = complete = claim

    with pytest.raises(TypeError, match="release"):
        Half()  # type: ignore[abstract]

    class Alone:
        def claim(self, key: bytes, step: Step) -> None: ...

        renew = complete = release = claim

    with pytest.raises(TypeError, match=r"derive Alone from pyidempotent\.backends\.custom\.CustomBackend"):
        idempotent(Alone())  # type: ignore[arg-type]


def test_a_foreign_value_is_named_and_left_alone(mode: Mode) -> None:
    backend = DictBackend()
    charge = protect(mode, backend, [])
    charge("a")
    (key,) = backend._values
    for foreign in (b"", b"something", b"\0" * 8 + b"idm9" + b"x" * 100):
        backend._values[key] = foreign
        with pytest.raises(IdempotencyStoreUnavailable, match=f"the storage key {key.hex()} can't be used"):
            charge("a")
        assert backend._values == {key: foreign}


def test_a_claim_that_a_cancelled_call_left_on_its_way_is_released() -> None:
    entered, go, released = threading.Event(), threading.Event(), threading.Event()

    class Slow(Broken):
        def claim(self, key: bytes, step: Step) -> None:
            entered.set()
            assert go.wait(10)
            super().claim(key, step)

        def release(self, key: bytes, step: Step) -> None:
            super().claim(key, step)
            released.set()

    backend = Slow()

    async def cancelled() -> None:
        @idempotent(backend, key="order", lease=60)
        async def charge(order: str) -> None: ...

        call = asyncio.ensure_future(charge("a"))
        while not entered.is_set():  # the loop goes on while the backend's method waits
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    go.set()
    assert released.wait(10)
    assert backend._values == {}


def test_what_its_threads_keep_is_kept() -> None:
    seen = []

    class Keeps(Broken):
        local = threading.local()

        def claim(self, key: bytes, step: Step) -> None:
            self.local.calls = getattr(self.local, "calls", 0) + 1
            seen.append(self.local.calls)
            super().claim(key, step)

    charge = protect(Mode("sync"), Keeps(), [])
    for number in range(40):  # more than there are threads
        charge(f"order-{number}")
    assert max(seen) > 1


def test_leases_are_judged_by_the_clock_that_it_gives() -> None:
    class Remote(Broken):
        now = 1_700_000_000.0
        values: ClassVar[dict[bytes, bytes]] = {}

        def __init__(self) -> None:
            super().__init__()
            self._values = self.values

        def claim(self, key: bytes, step: Step) -> None:
            with self._lock:
                self.write(key, step(self.read(key), now=Remote.now))

        renew = complete = release = claim

    inside: list[str] = []

    def charge(order: str) -> None:
        inside.append(order)
        if len(inside) == 1:
            with pytest.raises(IdempotencyProcessing):
                elsewhere(order)
            Remote.now += 60
            with pytest.raises(IdempotencyProcessing):
                here(order)  # it lives, as its own process knows
            Remote.now += 60
            elsewhere(order)

    # Two backends are as two processes.
    options: dict[str, Any] = {"key": "order", "name": "shop.charge", "lease": 60, "ttl": 120}
    here, elsewhere = (idempotent(Remote(), **options)(charge) for _ in range(2))
    here("a")
    assert inside == ["a", "a"]
    (value,) = Remote.values.values()
    assert expires_at(value) == Remote.now + 120
    with pytest.raises(ValueError, match="not an idempotency record"):
        expires_at(b"something else")


def test_a_forked_child_works_with_it_and_the_exit_waits_for_it(tmp_path: Path) -> None:
    code = """
    import os, sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from backends import DbmBackend, DictBackend
    from pyidempotent import idempotent

    for backend in (DictBackend(), DbmBackend(Path(sys.argv[2]))):
        @idempotent(backend, key="order")
        def charge(order):
            return os.getpid()

        assert charge("a") == os.getpid()
        if (child := os.fork()) == 0:
            assert charge("a") == (os.getpid() if isinstance(backend, DictBackend) else os.getppid())
            assert charge("b") == os.getpid()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert charge("c") == os.getpid()
    """
    output(code, str(Path(backends.__file__).parent), str(tmp_path / "records"))


def test_processes_share_a_file(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from backends import DbmBackend\n"
        "from pyidempotent import idempotent\n"
        "@idempotent(DbmBackend(Path(sys.argv[2])), key='order', wait=20)\n"
        "def charge(order):\n"
        "    with open(sys.argv[3], 'a') as book:\n"
        "        book.write('x')\n"
        "    return order\n"
        "assert charge(sys.argv[4]) == sys.argv[4]\n"
    )
    paths = [str(Path(backends.__file__).parent), str(tmp_path / "records"), str(tmp_path / "runs"), str(uuid.uuid4())]
    processes = [subprocess.Popen([sys.executable, "-c", code, *paths], env=os.environ) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0] * 4
    assert (tmp_path / "runs").read_text() == "x"


def test_the_exit_waits_for_what_is_on_its_way() -> None:
    code = """
    import sys, threading
    sys.path.insert(0, sys.argv[1])
    from backends import DictBackend
    from pyidempotent import idempotent

    class Slow(DictBackend):
        def complete(self, key, step):
            threading.Event().wait(0.3)  # for time to pass
            self.claim(key, step)
            print("held", len(self._values))

    @idempotent(Slow(), key="order", after_crash="refuse")
    def charge(order):
        sys.exit(0)

    charge("a")
    """
    complains = "nobody knows whether the effect of the record"
    assert output(code, str(Path(backends.__file__).parent), complains=complains) == "held 1\n"


def test_a_wait_for_it_can_be_interrupted() -> None:
    code = """
    import os, signal, sys, threading, time
    sys.path.insert(0, sys.argv[1])
    from backends import DictBackend
    from pyidempotent import idempotent

    go = threading.Event()

    class Hangs(DictBackend):
        def claim(self, key, step):
            threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()
            go.wait(20)
            super().claim(key, step)

    @idempotent(Hangs(), key="order")
    def charge(order):
        print("it ran")

    try:
        charge("a")
    except KeyboardInterrupt:
        print("interrupted while it hangs:", not go.is_set())
    go.set()
    """
    assert output(code, str(Path(backends.__file__).parent)) == "interrupted while it hangs: True\n"


def test_one_that_was_not_used_is_collected() -> None:
    class Unused(Broken):
        def __init__(self) -> None: ...

    gone = weakref.ref(Unused())
    gc.collect()
    assert gone() is None
