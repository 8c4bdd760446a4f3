"""`Site`: the options of one call site, checked when they are given."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from pyidempotent import _native
from pyidempotent._native import Outcome
from pyidempotent._values.durations import Seconds, seconds
from pyidempotent.backends import Backend, open_backend

AfterCrash = Literal["rerun", "refuse"]
KeyFormat = Literal["lenient", "strict"]
Settle = Callable[[Outcome], Literal["store", "release", "hold"] | None]

MAX_REQUEST_BYTES = 10 * 1024 * 1024
MAX_RESPONSE_BYTES = 1024 * 1024

#: What the original called them.
SUCCESSORS = {
    "key_extractor": "key",
    "wait_on_processing": "wait",
    "wait_timeout": "wait",
}


def takes_one(option: str, function: Any, what: str) -> None:
    """Refuses what can't be called with one argument.

    Parameters:
        what: the argument, for the message.

    Raises:
        TypeError: where it can't.
    """
    if not callable(function):
        raise TypeError(f"{option}= must be a callable on {what}, not {function!r}")
    try:
        inspect.signature(function).bind(None)
    except ValueError:  # some built-in callables do not tell
        return
    except TypeError as error:
        raise TypeError(f"{option}= must be a callable with one parameter, {what}: {error}") from None


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuses what is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def refuse_unknown(options: Mapping[str, Any], who: str, *elsewhere: str) -> None:
    """Refuses options that a face does not take, and names the one that may be meant.

    Parameters:
        who: the face, for the message.
        elsewhere: those that it takes, beside a site's.
    """
    for name in options:
        known = {*inspect.signature(Site.__init__).parameters, *elsewhere}
        if name in _ELSEWHERE | known:
            raise TypeError(f"{name}= is no option of {who}; docs/options.md has the options of every face")
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}=?" if close else ""
        if name in SUCCESSORS:
            hint = f"; it is called {SUCCESSORS[name]}= now"
        raise TypeError(f"unexpected keyword argument {name!r}{hint}")


#: Options that some faces take.
_ELSEWHERE = frozenset({"key", "name", "scope", "fingerprint", "routes", "methods", "payload", "caller"})


class Options(TypedDict, total=False):
    """The options that every face takes by the same names; `idempotent` says what each of them means."""

    ttl: Seconds
    lease: Seconds | None
    wait: Seconds
    key_header: str
    key_format: KeyFormat
    required: bool
    namespace: str | Callable[..., str]
    after_crash: AfterCrash
    settle: Settle | None
    retry_after: Seconds
    run_limit: Seconds | None
    disconnect_grace: Seconds | None
    max_request_bytes: int
    max_response_bytes: int
    store_set_cookie: bool
    problem_docs: str | None


class Site:
    """The options of one call site. The store behind it is shared; these are not."""

    def __init__(
        self,
        backend: Backend | str | None,
        *,
        ttl: Seconds = 86400,
        lease: Seconds | None = None,
        wait: Seconds = 0,
        key_header: str = "Idempotency-Key",
        key_format: KeyFormat = "lenient",
        required: bool = True,
        namespace: str | Callable[..., str] = "",
        after_crash: AfterCrash = "rerun",
        settle: Settle | None = None,
        store_exceptions: tuple[type[Exception], ...] | type[Exception] = (),
        retry_after: Seconds = 1,
        run_limit: Seconds | None = None,
        disconnect_grace: Seconds | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        store_set_cookie: bool = False,
        problem_docs: str | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown(unknown, "the middleware", "key", "name", "scope", "fingerprint", "routes", "methods")
        one_of("after_crash", after_crash, ("rerun", "refuse"))
        one_of("key_format", key_format, ("lenient", "strict"))
        if not isinstance(key_header, str):
            raise TypeError(f"key_header must be a str, not {key_header!r}")
        if not isinstance(namespace, str) and not callable(namespace):
            raise TypeError(f"namespace must be a str, or a callable that returns one, not {namespace!r}")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key_header):  # a token (RFC 9110, section 5.1)
            raise ValueError(f"key_header must be the name of a header, not {key_header!r}")
        for name, count in (("max_request_bytes", max_request_bytes), ("max_response_bytes", max_response_bytes)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"{name} must be a number of bytes, 0 or more, not {count!r}")
        if problem_docs is not None and (not isinstance(problem_docs, str) or "://" not in problem_docs):
            raise ValueError(f"problem_docs must be the absolute URL of your documentation, not {problem_docs!r}")
        for name, told in (("required", required), ("store_set_cookie", store_set_cookie)):
            if not isinstance(told, bool):
                raise TypeError(f"{name} must be True or False, not {told!r}")
        if settle is not None:
            takes_one("settle", settle, "the Outcome")
        exceptions = store_exceptions if isinstance(store_exceptions, tuple) else (store_exceptions,)
        if not all(isinstance(cls, type) and issubclass(cls, Exception) for cls in exceptions):
            raise TypeError(f"store_exceptions must be a tuple of exception classes, not {store_exceptions!r}")
        self.key_header = key_header
        #: The header's name as it is in a request's facts.
        self.header = key_header.lower().encode("latin-1")
        self.strict = key_format == "strict"
        self.required = bool(required)
        self.namespace = namespace
        self.settle = settle
        self.store_exceptions = exceptions
        self.retry_after = seconds("retry_after", retry_after)
        # Clamped to what Py_ssize_t can hold.
        self.max_request_bytes = min(max_request_bytes, sys.maxsize)
        self.max_response_bytes = min(max_response_bytes, sys.maxsize)
        self.store_set_cookie = store_set_cookie
        self.problem_docs = problem_docs
        self.wait = seconds("wait", wait)
        self.disconnect_grace = None if disconnect_grace is None else seconds("disconnect_grace", disconnect_grace)
        self._options: dict[str, Any] = {
            "ttl": seconds("ttl", ttl),
            "lease": None if lease is None else seconds("lease", lease),
            "wait": self.wait,
            "run_limit": None if run_limit is None else seconds("run_limit", run_limit),
            "refuse_after_crash": after_crash == "refuse",
            "namespace": namespace if isinstance(namespace, str) else "",
        }
        # Even without a backend of its own, what is wrong with the options is said now.
        native = open_backend(backend).native if backend is not None else _native.Backend.memory(0, 0)
        engine = _native.Engine(native, **self._options)
        self._lease = engine.lease
        #: What its calls need, with the engine of these options, if there is a backend.
        self.native = self._for_calls(engine if backend is not None else None)
        self._backend = native if backend is not None else None
        #: The application's backend, and the engine with these options over it.
        self._made: tuple[Backend, _native.Engine] | None = None
        #: The levels at which something was logged that is said once.
        self.said: set[int] = set()

    @property
    def has_backend(self) -> bool:
        """Whether a backend was given."""
        return self._backend is not None

    @property
    def grace(self) -> float:
        """How many seconds work goes on after its client has left: as told, or the lease."""
        if self.disconnect_grace is not None:
            return self.disconnect_grace
        return self._lease

    def on_backend_of(self, other: Site) -> Site:
        """These options over another site's backend."""
        assert other._backend is not None
        site = copy.copy(self)
        site._backend = other._backend
        site.native = site._for_calls(_native.Engine(other._backend, **self._options))
        return site

    def _for_calls(self, engine: _native.Engine | None) -> _native.Site:
        return _native.Site(
            engine,
            key_header=self.key_header,
            strict=self.strict,
            required=self.required,
            settle=self.settle,
            retry_after=self.retry_after,
            max_request_bytes=self.max_request_bytes,
            max_response_bytes=self.max_response_bytes,
            store_set_cookie=self.store_set_cookie,
        )

    def differs_from(self, outer: Site) -> list[str]:
        """The options that were given here and are others there, where one attempt cannot honour both."""
        default = Site(None)

        def options(site: Site) -> dict[str, Any]:
            own = (
                "namespace", "key_header", "strict", "settle", "store_exceptions", "max_request_bytes",
                "max_response_bytes", "disconnect_grace", "store_set_cookie", "problem_docs",
            )  # fmt: skip
            return {"backend": site._backend, **site._options, **{name: getattr(site, name) for name in own}}

        given, there, unset = options(self), options(outer), options(default)
        said = {"refuse_after_crash": "after_crash", "strict": "key_format"}
        return [said.get(name, name) for name in given if given[name] not in (unset[name], there[name])]

    def refuse_inside(self, who: str, own: list[str], site: Site, way: str = "as routes={path: {...}}") -> None:
        """Refuses options of a second protection of a request, which the attempt of this one can't honour.

        Parameters:
            who: the second protection.
            own: its options that are no options of a site.
            site: its other options; those with their default value count as not given.
            way: how options are given to the framework's middleware.

        Raises:
            TypeError: names them.
        """
        if options := [*own, *site.differs_from(self)]:
            raise TypeError(
                f"{who} is protected by the middleware too, which holds the attempt without {', '.join(options)}: give "
                f"these options to the middleware, {way}, or leave the path out there"
            )

    def application_engine(self) -> _native.Engine:
        """In the place of an engine, where no backend was given: over the application's own, where it has one.

        Raises:
            TypeError: where it has none.
        """
        django = sys.modules.get("pyidempotent.django")
        backend: Backend | None = None if django is None else django.default_backend()
        if backend is None:
            raise TypeError("there is no backend here: pass backend=, a backend or a URL like 'redis://localhost'")
        if self._made is None or self._made[0] is not backend:
            self._made = (backend, _native.Engine(backend.native, **self._options))
        return self._made[1]
