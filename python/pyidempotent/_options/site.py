"""`Site`: the options of one call site, and the engine that works with them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from pyidempotent import _native
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import TAKERS, FunctionOptions, options_of
from pyidempotent.backends import Backend, open_backend

#: What counts of an option that a face does not take.
_DEFAULTS = OptionReader("Site", FunctionOptions).read({})

#: The options that a protection inside of another may have of its own.
_APART = {name for fields in TAKERS.values() for name, (_, option) in options_of(fields).items() if option.apart}


class Site:
    """The options of one call site. The store behind it is shared; these are not.

    Parameters:
        options: as a face has read them.
    """

    def __init__(self, backend: Backend | str | None, options: Mapping[str, Any]) -> None:
        self.options = options = {**_DEFAULTS, **options}
        # What is read for every call; the extension has the rest.
        self.key_header: str = options["key_header"]
        #: The header's name as it is in a request's facts.
        self.header = self.key_header.lower().encode("latin-1")
        self.required: bool = options["required"]
        self.namespace: Any = options["namespace"]
        self.store_exceptions: tuple[type[Exception], ...] = options["store_exceptions"]
        self.max_request_bytes: int = options["max_request_bytes"]
        self.max_response_bytes: int = options["max_response_bytes"]
        self.store_set_cookie: bool = options["store_set_cookie"]
        self.problem_docs: str | None = options["problem_docs"]
        self.wait: float = options["wait"]
        # Even without a backend of its own, what is wrong with the options is said now.
        native = open_backend(backend).native if backend is not None else _native.Backend.memory(0, 0)
        engine = self.engine_over(native)
        #: How many seconds work goes on after its client has left: as told, or the lease.
        self.grace: float = engine.lease if options["disconnect_grace"] is None else options["disconnect_grace"]
        #: What its calls need, with the engine of these options, if there is a backend.
        self.native = self._for_calls(engine if backend is not None else None)
        self._backend = native if backend is not None else None
        #: The application's backend, and the engine with these options over it.
        self._made: tuple[Backend, _native.Engine] | None = None
        #: Whether its calls commit what they write, each in a transaction of its own.
        self.owns_transaction = False
        #: The levels at which something was logged that is said once.
        self.said: set[int] = set()

    @property
    def has_backend(self) -> bool:
        """Whether a backend was given."""
        return self._backend is not None

    def on_backend_of(self, other: Site) -> Site:
        """These options over another site's backend."""
        assert other._backend is not None
        site = copy.copy(self)
        site._backend = other._backend
        site.native = site._for_calls(self.engine_over(other._backend))
        return site

    def engine_over(self, backend: _native.Backend) -> _native.Engine:
        """An engine with these options."""
        options = {name: self.options[name] for name in ("ttl", "lease", "wait", "run_limit")}
        options["refuse_after_crash"] = self.options["after_crash"] == "refuse"
        return _native.Engine(backend, namespace=self.namespace if isinstance(self.namespace, str) else "", **options)

    def _for_calls(self, engine: _native.Engine | None) -> _native.Site:
        names = (
            "key_header", "required", "settle", "retry_after", "max_request_bytes", "max_response_bytes",
            "store_set_cookie", "redact",
        )  # fmt: skip
        options = {name: self.options[name] for name in names}
        return _native.Site(engine, strict=self.options["key_format"] == "strict", **options)

    def refuse_inside(self, who: str, site: Site, way: str = "as routes={path: {...}}") -> None:
        """Refuses options of a second protection of a request, which the attempt of this one can't honour.

        Parameters:
            who: the second protection.
            site: its options; those with their default value count as not given.
            way: how options are given to the framework's middleware.

        Raises:
            TypeError: names them.
        """
        astray = ["backend"] if site._backend not in (None, self._backend) else []
        for name, given in site.options.items():
            if name not in _APART and given not in (_DEFAULTS[name], self.options[name]):
                astray.append(name)
        if astray:
            raise TypeError(
                f"{who} is protected by the middleware too, which holds the attempt without {', '.join(astray)}: give "
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
            self._made = (backend, self.engine_over(backend.native))
        return self._made[1]
