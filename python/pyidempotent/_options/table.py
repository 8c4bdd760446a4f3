"""The table of options: a field of a TypedDict is an option, with its name, type, default, check and documentation.

Type checkers read the fields, and editors show the text below a field at the option's name. `reading` reads them when
the program runs. A group is what some faces take; a face's options are joined of groups.
"""

# The annotations are objects here, not text: Option() in them is read when the program runs.

import ast
import linecache
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypedDict

from pyidempotent._native import METHODS, Outcome
from pyidempotent._options import checks
from pyidempotent._options.checks import Check
from pyidempotent._values.durations import Seconds, seconds
from pyidempotent.backends import Backend
from pyidempotent.backends.seal import Sealing

#: The default of an option that must be given.
UNSET: Any = object()

#: A callable of the user's that gets a function's arguments, by their names.
OnArguments = Callable[..., Any]
#: A callable of the user's that gets the framework's request.
OnRequest = Callable[[Any], Any]

AfterCrash = Literal["rerun", "refuse"]
KeyFormat = Literal["lenient", "strict"]
Settle = Callable[[Outcome], Literal["store", "release", "hold"] | None]
#: A callable of the user's that gets what would be stored, a value or an `Answer`, and returns what is.
Redact = Callable[[Any], Any]


@dataclass(frozen=True)
class Option:
    """What the name, the type and the documentation of an option do not say.

    Parameters:
        default: what counts where none is given, as the check would return it.
        check: says what is wrong with a value, and returns what is worked with. It is not asked about the default.
        apart: whether a protection inside of another may have its own; the attempt is the outer one's.
        formerly: what the original called it.
        elsewhere: what there is on the faces that do not take it.
    """

    default: Any
    check: Check = checks.anything
    apart: bool = False
    formerly: tuple[str, ...] = ()
    elsewhere: str = ""


class _OfCalls(TypedDict, total=False):
    key: Annotated[OnArguments | str | None, Option(None, formerly=("key_extractor",))]
    """What the key is: a callable that gets the function's arguments by name and returns a str, an int, a UUID or None;
    the name of a parameter; or `arguments`. By default it is the header of the request, or the id of the task. A
    Starlette endpoint that has a callable needs a parameter ``request: Request``; FastAPI gives the request to every
    endpoint.
    """

    required: Annotated[bool, Option(True, checks.flag, apart=True)]
    """True, the default, refuses a call without a key. False lets it run unprotected."""

    scope: Annotated[OnArguments | None, Option(None)]
    """Who calls: a callable that gets the function's arguments (and ``request``), `by_authorization` or `shared`."""

    fingerprint: Annotated[OnArguments | None, Option(None)]
    """What tells two payloads apart: a callable that gets the function's arguments; on an endpoint also `json_body`. By
    default the arguments do, or the request of an endpoint.
    """


class _Excepting(TypedDict, total=False):
    store_exceptions: Annotated[
        tuple[type[Exception], ...] | type[Exception],
        Option((), checks.exception_classes, elsewhere="middleware stores answers, and settle= says which"),
    ]
    """Types of exceptions that are stored as results. Any other exception releases the key."""


class _OfFunctions(_OfCalls, _Excepting, total=False):
    pass


class _OfRequests(TypedDict, total=False):
    key: Annotated[OnRequest | None, Option(None, checks.TakesOne("the request"), formerly=("key_extractor",))]
    """What the key is, instead of the header: a callable that gets the request."""

    required: Annotated[bool, Option(False, checks.flag, apart=True)]
    """True refuses a request without a key. False, the default, lets it run unprotected."""

    scope: Annotated[OnRequest | None, Option(None, checks.TakesOne("the request"))]
    """Who calls: a callable that gets the request, `by_authorization` or `shared`. By default it is the framework's
    user, if there is one.
    """

    fingerprint: Annotated[OnRequest | None, Option(None, checks.TakesOne("the request"))]
    """What tells two requests apart: a callable that gets the request, or `json_body`. By default method, path, query,
    content type and body do.
    """

    methods: Annotated[Iterable[str], Option(METHODS, checks.http_methods, apart=True)]
    """The methods that are protected, by default POST and PATCH; never GET, HEAD, OPTIONS or TRACE."""


class _KeyOfBlocks(TypedDict):
    key: Annotated[str, Option(UNSET)]
    """The key, 1 to 255 characters. An int or a UUID counts as its text."""


class _OfBlocks(_KeyOfBlocks, total=False):
    payload: Annotated[Any, Option(None)]
    """What is asked for, as a value. Another payload under the same key raises `IdempotencyConflict`."""

    caller: Annotated[Any, Option(None)]
    """Who calls, as a value. None is the anonymous caller."""

    namespace: Annotated[str, Option("", checks.text)]
    """Keeps applications apart that share a store."""


class _Kept(TypedDict, total=False):
    name: Annotated[str | None, Option(None, checks.text)]
    """What is done: the same key under another name is another key. By default it is the request's method and path, the
    function's qualified name, or the task's name; of a block it is ``attempt``.
    """

    ttl: Annotated[Seconds, Option(86400, seconds)]
    """How long a result is kept, counted from completion: seconds or a timedelta, by default 86400 (a day). Choose it
    longer than any retry may take.
    """

    retry_after: Annotated[Seconds, Option(1, seconds, apart=True)]
    """The longest wait that a repeat is asked for while the first still runs, by default 1 s. For a task it is the
    longest pause before a message that was put back arrives again.
    """

    max_response_bytes: Annotated[int, Option(1024 * 1024, checks.byte_count)]
    """The most bytes of a result that is kept, by default 1 MiB. A repeat of a larger one is refused (over HTTP with
    410), and nothing runs.
    """

    redact: Annotated[Redact | None, Option(None, checks.TakesOne("what would be stored"))]
    """Takes parts out of what is stored: a callable that gets a copy of the function's value, or the `Answer` to the
    request, and returns what stands in its place. The first caller gets the whole, a repeat gets what is left. Where it
    fails, nothing is kept. Exceptions that are stored are left as they are.
    """


class _Leased(TypedDict, total=False):
    lease: Annotated[Seconds | None, Option(None, seconds)]
    """How long a crash blocks the key: by default 30 s, at most ``ttl``. It is renewed while the work runs."""

    run_limit: Annotated[Seconds | None, Option(None, seconds)]
    """How long the lease is renewed at the most, by default for the ``ttl``."""

    after_crash: Annotated[AfterCrash, Option("rerun", checks.one_of(AfterCrash))]
    """What a crash does to the key. ``"rerun"``, the default, lets a repeat run (at least once). ``"refuse"`` makes the
    outcome unknown until an operator resolves it (at most once).
    """


class _Always(_Kept, _Leased, total=False):
    pass


class _Waiting(TypedDict, total=False):
    wait: Annotated[Seconds, Option(0, seconds, formerly=("wait_on_processing", "wait_timeout"))]
    """How long a repeat waits for the first answer. With 0, the default, it is refused at once while the first still
    runs.
    """


class _Asking(TypedDict, total=False):
    namespace: Annotated[str | Callable[..., str], Option("", checks.namespace)]
    """Keeps applications apart that share a store. A callable keeps tenants apart; it gets what one of ``scope=``
    gets: ``namespace=lambda request: request.url.hostname``.
    """

    settle: Annotated[Settle | None, Option(None, checks.TakesOne("the Outcome"))]
    """Which results are stored: a callable that gets an `Outcome` and returns ``"store"``, ``"release"``, ``"hold"`` or
    None for the default.
    """


class _OverHttp(TypedDict, total=False):
    key_header: Annotated[str, Option("Idempotency-Key", checks.header_name)]
    """The name of the header with the key, by default ``"Idempotency-Key"``."""

    key_format: Annotated[KeyFormat, Option("lenient", checks.one_of(KeyFormat))]
    """How a key is written. ``"lenient"``, the default, takes the quoted String of RFC 9651 and a bare key.
    ``"strict"`` takes only the String.
    """

    disconnect_grace: Annotated[Seconds | None, Option(None, seconds)]
    """How long a request goes on after its client has left, so that a repeat finds the answer: by default for the
    lease. With 0 the application learns at once that its client has left. The key of a request that ends without an
    answer is held.
    """

    max_request_bytes: Annotated[int, Option(10 * 1024 * 1024, checks.byte_count)]
    """The most bytes of a request body, by default 10 MiB. A larger one is refused with 413."""

    store_set_cookie: Annotated[bool, Option(False, checks.flag)]
    """True stores and replays ``Set-Cookie`` headers. False, the default, leaves them out."""

    problem_docs: Annotated[str | None, Option(None, checks.url)]
    """The URL of your documentation of the refusals. A problem's ``type`` is this and the refusal's name
    (``https://docs.example.com/errors#`` makes ``…#conflict``), and a ``Link`` header points there.
    """


class FunctionOptions(_OfFunctions, _Always, _Waiting, _Asking, _OverHttp, total=False):
    """The options of `pyidempotent.idempotent`."""


class TaskOptions(_OfFunctions, _Always, _Asking, total=False):
    """The options of `pyidempotent.celery.idempotent_task`."""


class BlockOptions(_OfBlocks, _Always, _Waiting, total=False):
    """The options of `pyidempotent.attempt`."""


class _Sealing(TypedDict, total=False):
    seal: Annotated[
        Sealing | None, Option(None, checks.seal, elsewhere="a backend takes it: RedisBackend(url, seal=…)")
    ]
    """The keys that results are encrypted with before they leave the process: a `Seal`, or what makes one."""


class _InDatabase(TypedDict, total=False):
    schema: Annotated[str, Option("idempotency", checks.schema_name)]
    """The schema of Postgres that the table and the functions are in, by default ``"idempotency"``; the ``schema=``
    of `PostgresBackend`. On SQLite it means nothing.
    """


class TransactionOptions(_OfBlocks, _Kept, _Waiting, _InDatabase, _Sealing, total=False):
    """The options of `pyidempotent.transaction`."""


class TransactionalOptions(_OfCalls, _Kept, _Waiting, _InDatabase, _Sealing, _OverHttp, total=False):
    """The options of `pyidempotent.transactional`."""

    namespace: Annotated[str, Option("", checks.text)]
    """Keeps applications apart that share a store."""


class ViewOptions(_OfRequests, _Always, _Waiting, _Asking, _OverHttp, total=False):
    """The options of a view, on a face that stores whole answers."""


class RouteOptions(ViewOptions, total=False):
    """The options of one route."""

    backend: Annotated[Backend | str | None, Option(None, apart=True)]
    """Where records live: a backend or its URL."""


class MiddlewareOptions(ViewOptions, total=False):
    """The options of a face that stores whole answers."""

    routes: Annotated[Mapping[str, RouteOptions | None] | None, Option(None, checks.path_options, apart=True)]
    """Options of their own for some paths: a pattern of the path (``"/webhooks/*"``) and a dict of options, or None to
    leave the path out. ``{id}`` stands for one segment. The first pattern that fits counts.
    """


#: Who takes options, as messages and the documentation name them.
TAKERS: dict[str, Any] = {
    "@idempotent": FunctionOptions,
    "middleware": MiddlewareOptions,
    "idempotent_task()": TaskOptions,
    "attempt()": BlockOptions,
    "transaction()": TransactionOptions,
    "@transactional": TransactionalOptions,
}


def options_of(fields: Any) -> dict[str, tuple[Any, Option]]:
    """The type and the option of each field of a TypedDict."""
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in fields.__annotations__.items()}


@lru_cache(1)
def groups() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Of each class of this file: what it joins, and the text below each of its own fields. Empty without sources."""
    found = {}
    for made in ast.parse("".join(linecache.getlines(__file__, globals()))).body:
        if isinstance(made, ast.ClassDef):
            texts = {}
            for pair in pairwise(made.body):
                match pair:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                        texts[name] = " ".join(text.split())
            found[made.name] = [base.id for base in made.bases if isinstance(base, ast.Name)], texts
    return found


def documentation(name: str) -> dict[str, str]:
    """The text of each option of a TypedDict of this file."""
    bases, own = groups().get(name, ([], {}))
    return {option: text for base in bases for option, text in documentation(base).items()} | own
