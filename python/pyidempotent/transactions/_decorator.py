"""`transactional`: a function or an endpoint that runs in a transaction with its key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from pyidempotent import _native
from pyidempotent._calls.decorator import wrapped
from pyidempotent._calls.function import Function
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import TransactionalOptions
from pyidempotent._values.binding import Selector
from pyidempotent._values.results import Outcome, redacted
from pyidempotent.exceptions import IdempotencyKeyMissing
from pyidempotent.transactions._claim import NOWHERE, Claim
from pyidempotent.transactions._connections import Steps, asks, connection_of, drive, drive_async

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")

FACE = OptionReader("@transactional", TransactionalOptions, place="connection")


@FACE.shows
def transactional(
    connection: str | Callable[..., Any], **options: Unpack[TransactionalOptions]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs a function once per key, in a transaction: what it writes and its result commit or roll back as one.

    It commits the transaction before the answer leaves. Inside of a block that has begun one, as under Django's
    ``ATOMIC_REQUESTS`` or in ``with session.begin()``, it works in that one, and the block commits. A function that
    raises is rolled back, and so is one whose answer is not stored (a 500): a repeat runs. A ``commit()`` in the
    function is an error.

    In an endpoint of FastAPI's, Flask's or Django's the key is the request's ``Idempotency-Key`` header, and the
    payload is the request. Elsewhere ``key=`` says what the key is. `pyidempotent.current` finds no attempt in it.

    Parameters:
        connection: the name of the parameter that has the connection or the session, or a callable that gets the
            function's arguments by name and returns it.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

    Raises:
        TypeError, ValueError: at decoration, for options or functions that can't be.
        IdempotencyError: at a call; each of its classes says when.

    >>> import sqlite3
    >>> import pyidempotent
    >>> shop = sqlite3.connect(":memory:")
    >>> pyidempotent.transactions.create_table(shop)
    >>> @pyidempotent.transactional(lambda: shop, key="order")
    ... def place(order: str) -> str:
    ...     print("placing")
    ...     return f"{order} placed"
    >>> place("order-7")
    placing
    'order-7 placed'
    >>> place("order-7")
    'order-7 placed'
    """
    read = FACE.read(options)
    site = Site(None, read)
    site.owns_transaction = True
    engine = site.engine_over(NOWHERE)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        plan = Function(function, site, **{name: read[name] for name in ("key", "scope", "fingerprint", "name")})
        if isinstance(connection, str):
            if connection not in plan.binding.names:
                raise TypeError(f"connection {connection!r} names no parameter of {plan.name}")
            name = connection
            select: Callable[[Any], Any] = lambda call: call.values()[name]  # noqa: E731
        else:
            selector = Selector("connection", connection, plan.binding, also=("request",))
            select = lambda call: call.select(selector)  # noqa: E731
        made = partial(_Run, site, engine, select, read["retry_after"], read["schema"], read["seal"])
        return cast("Callable[P, R]", wrapped(plan, made(drive), made(drive_async)))

    return decorate


class _Run:
    """Carries a call to its end, in a transaction of its connection's."""

    def __init__(
        self,
        site: Site,
        engine: _native.Engine,
        select: Callable[[Any], Any],
        retry_after: float,
        schema: str,
        seal: _native.Seal | None,
        driven: Callable[..., Any],
    ) -> None:
        self.site, self.engine, self.select, self.driven = site, engine, select, driven
        self.retry_after, self.schema, self.seal = retry_after, schema, seal
        self.redact = site.options["redact"]

    def __call__(self, call: Any, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any], read: Any) -> Any:
        """The call's `Outcome`, or an awaitable of it."""
        connection = self.select(call)
        return self.driven(connection_of(connection), self.steps(call, connection, asks(run, *args, **kwargs), read))

    def packed(self, call: Any, outcome: Outcome) -> bytes:
        """The stored form of an end, which ``redact=`` may take parts of."""
        payload: bytes = call.pack(outcome)
        return payload if self.redact is None else redacted(self.redact, payload, outcome, call.pack)

    def steps(self, call: Any, connection: Any, run: Callable[[], Any], read: Callable[[Any], Any]) -> Steps[Outcome]:
        """What is to be done, in order."""
        key = call.key()
        if key is None:
            if self.site.required:
                raise IdempotencyKeyMissing()
            return Outcome((yield run))
        fingerprint = call.fingerprint()
        if fingerprint is None:
            fingerprint = call.fingerprint_of((yield asks(read, call.body())))
        asked = (key, call.operation(), call.caller(), fingerprint)
        claim = Claim(connection, self.engine, *asked, retry_after=self.retry_after, schema=self.schema, seal=self.seal)
        own, begins = claim.connection, not claim.connection.is_held
        # What a dependency has read or written before is not ours to undo where nothing ran.
        undoes = begins and not own.is_begun
        try:
            stored = yield from claim.begin(self.site.wait, begins)
            if stored is not None:
                replay: Outcome = call.replay(stored)
                if undoes:
                    yield own.rollback  # nothing was written in it
                return replay
            undoes = begins
            try:
                outcome = Outcome((yield run))
            except Exception as error:
                outcome = Outcome(None, error)
            finally:
                claim.leave()
            if outcome.exception is None and call.verdict(outcome) == "store":
                yield from claim.complete(lambda: self.packed(call, outcome), self.site.max_response_bytes)
                if begins:
                    yield own.commit
            elif begins:
                yield own.rollback
            else:
                yield from claim.undo()
        except GeneratorExit:
            raise
        except BaseException:
            if undoes:
                with suppress(Exception):  # the first error counts
                    yield own.rollback
            raise
        return outcome
