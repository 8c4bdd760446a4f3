"""`attempt`: the same protection around a block, for consumers and scripts."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyidempotent import _native
from pyidempotent._calls.current import CurrentAttempt, Operation
from pyidempotent._calls.flow import Flow, advance, advance_async, enter, hurry, leave, protect, refuse_to_block
from pyidempotent._calls.function import caller_bytes
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import BlockOptions
from pyidempotent._values.results import VALUE, Outcome, pack, unpack
from pyidempotent.backends import Backend

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["attempt"]

FACE = OptionReader("attempt()", BlockOptions)


@FACE.shows
class attempt(AbstractContextManager["attempt"], AbstractAsyncContextManager["attempt"]):  # noqa: N801  # used like a function
    """Protects a block: ``with`` or ``async with``.

    The first time the block runs and sets ``result``. A repeat enters with ``replayed`` true and the stored ``result``:
    look at it before you do anything. An exception that leaves the block releases the key (or makes it unknown, under
    ``after_crash="refuse"``). A block that is cancelled or interrupted holds its key until the lease has lapsed (or
    makes it unknown).

    Parameters:
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means; ``key=`` must be there. docs/options.md has all
            of them.

    Raises:
        IdempotencyError: at the entrance, where the block must not run.

    >>> from pyidempotent import attempt
    >>> def deliver(event: dict) -> str:
    ...     with attempt("memory://", key=event["id"], payload=event, name="webhook") as run:
    ...         if not run.replayed:
    ...             print("handling", event["id"])
    ...             run.result = "handled"
    ...     return run.result
    >>> deliver({"id": "evt_1"})
    handling evt_1
    'handled'
    >>> deliver({"id": "evt_1"})
    'handled'
    """

    def __init__(self, backend: Backend | str, **options: Unpack[BlockOptions]) -> None:
        read = FACE.read(options)
        self.site = Site(backend, read)
        self._key = _native.key_text(read["key"], "the key of an attempt")
        self._name: str = read["name"] or "attempt"
        self._caller = None if read["caller"] is None else caller_bytes(read["caller"])
        self._payload = read["payload"]
        self._flow: Flow | None = None
        self._running: tuple[CurrentAttempt | None, Token[CurrentAttempt | None]] | None = None
        #: Whether the block ran before, and must not run again.
        self.replayed = False
        #: What the block made; on a replay, what it made then. Any value that a function could return.
        self.result: Any = None

    # How `protect` sees it.

    def key(self) -> str | None:
        """The key."""
        return self._key

    def namespace(self) -> str | None:
        """The site's."""
        return None

    def operation(self) -> Operation:
        """What is done."""
        return self._name

    def caller(self) -> bytes | None:
        """For whom."""
        return self._caller

    def fingerprint(self) -> bytes | None:
        """The digest of the payload."""
        return _native.fingerprint_call({"payload": self._payload})

    def body(self) -> Any:
        """A block has no request."""
        raise AssertionError("an attempt has no request")

    def fingerprint_of(self, body: Any) -> bytes:
        """A block has no request."""
        raise AssertionError("an attempt has no request")

    def verdict(self, outcome: Outcome) -> str:
        """A block that ends is stored, one that raises is not."""
        return "store" if outcome.exception is None else "fail"

    def status(self, outcome: Outcome) -> int | None:
        """A block has none."""
        return None

    def pack(self, outcome: Outcome) -> bytes:
        """Its result."""
        return pack(VALUE, outcome.value, {})

    def headers(self, outcome: Outcome) -> tuple[()]:
        """A block has none."""
        return ()

    def replay(self, payload: bytes) -> Outcome:
        """Its stored result."""
        return Outcome(value=unpack(payload, {}))

    # The block.

    def _open(self) -> Flow:
        if self._flow is not None:
            raise RuntimeError("an attempt() is entered once; make another one")
        self._flow = protect(self)
        return self._flow

    def _start(self, step: Any) -> attempt:
        if type(step) is Outcome:
            self.replayed, self.result = True, step.value
        else:
            self._running = (step, enter(step))
        return self

    def _end(self, error: BaseException | None) -> Outcome | None:
        """What to send to the flow; ``None`` where it has ended, or nobody may wait for it."""
        if self._running is None:
            return None
        (running, token), self._running = self._running, None
        leave(token)
        if error is None:
            return Outcome(self.result)
        if isinstance(error, Exception):
            return Outcome(None, error)
        hurry(running)
        return None

    def __enter__(self) -> attempt:
        refuse_to_block(self.site.wait)
        return self._start(advance(self, self._open(), None, _no_body))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = self._end(error)
        if outcome is not None and self._flow is not None:
            self._settled(advance(self, self._flow, outcome, _no_body))

    async def __aenter__(self) -> attempt:
        return self._start(await advance_async(self, self._open(), None, _no_body))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = self._end(error)
        if outcome is not None and self._flow is not None:
            self._settled(await advance_async(self, self._flow, outcome, _no_body))

    def _settled(self, outcome: Any) -> None:
        # Where another attempt completed in this one's place, its result is the result.
        if outcome.exception is None:
            self.result = outcome.value


def _no_body(_: Any) -> Any:
    raise AssertionError("an attempt has no request")
