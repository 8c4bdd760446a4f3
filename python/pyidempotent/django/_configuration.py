"""The ``PYIDEMPOTENT`` setting: read, and every mistake in it named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from pyidempotent._http.routes import Plan, Routes
from pyidempotent._options.checks import TakesOne
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import MiddlewareOptions, RouteOptions, options_of
from pyidempotent.backends import Backend, open_backend

SETTING = "PYIDEMPOTENT"

FACE = OptionReader(SETTING, MiddlewareOptions, "exception_handler")

#: The options of the setting and of its routes, as they are called there.
OPTIONS = {name.upper(): name for name in options_of(RouteOptions)}

#: Those that take a callable, or the dotted path of one.
CALLABLES = {name.upper() for name, (_, option) in FACE.options.items() if isinstance(option.check, TakesOne)}

#: Called with the request and the `IdempotencyError`; returns a response, or None for the problem document.
ExceptionHandler = Callable[[Any, Exception], Any]


class Mistake(NamedTuple):
    """Something wrong with the setting.

    Parameters:
        number: of the check's message.
        message: what is wrong, and where.
        hint: what to do.
    """

    number: int
    message: str
    hint: str | None = None


class Configuration:
    """What the setting says.

    Parameters:
        setting: its value.

    Raises:
        ImproperlyConfigured: with every mistake in it.
    """

    def __init__(self, setting: Any) -> None:
        reader = _Reader(setting)
        if reader.mistakes or reader.backend is None:
            told = [f"{message} {hint or ''}".strip() for _, message, hint in reader.mistakes]
            raise ImproperlyConfigured("\n".join(told))
        self.backend: Backend = reader.backend
        self.options = reader.options
        self.exception_handler: ExceptionHandler | None = reader.exception_handler
        self.routes = Routes({**reader.options, "routes": reader.routes}, FACE)


class _Reader:
    """Reads the setting as far as it can be read."""

    def __init__(self, setting: Any) -> None:
        self.mistakes: list[Mistake] = []
        self.backend: Backend | None = None
        self.options: dict[str, Any] = {}
        self.routes: dict[str, dict[str, Any] | None] = {}
        self.exception_handler: ExceptionHandler | None = None
        if not isinstance(setting, Mapping):
            hint = 'Write it as {"BACKEND": "redis://localhost", "TTL": 86400}.'
            self._mistake(1, f"{SETTING} must be a dict, not {type(setting).__qualname__}.", hint)
            return
        own = {name: value for name, value in setting.items() if name not in ("ROUTES", "EXCEPTION_HANDLER")}
        self.options |= self._options(own, SETTING)
        self.backend = self.options.get("backend")
        if "BACKEND" not in setting:
            self._mistake(2, f"{SETTING} has no 'BACKEND'.", "Set it to a URL like 'redis://localhost'.")
        self._routes(setting.get("ROUTES", {}))
        if (handler := setting.get("EXCEPTION_HANDLER")) is not None:
            self.exception_handler = self._callable(handler, f"{SETTING}['EXCEPTION_HANDLER']")
        if not self.mistakes:
            self._together(self.options, SETTING)
            for pattern, options in self.routes.items():
                if options is not None:
                    self._together({**self.options, **options}, f"{SETTING}['ROUTES'][{pattern!r}]")

    def _mistake(self, number: int, message: str, hint: str | None = None) -> None:
        self.mistakes.append(Mistake(number, message, hint))

    def _options(self, given: Mapping[Any, Any], where: str) -> dict[str, Any]:
        """The options, by the names of the keywords."""
        options: dict[str, Any] = {}
        for name, value in given.items():
            place = f"{where}[{name!r}]"
            if name not in OPTIONS:
                self._mistake(3, f"{place}: there is no such option.", _instead(name))
            elif name == "BACKEND":
                options["backend"] = self._backend(value, place)
            else:
                read = self._callable(value, place) if name in CALLABLES and isinstance(value, str) else value
                options[OPTIONS[name]] = read
                self._alone(OPTIONS[name], read, place)
        return options

    def _backend(self, value: Any, place: str) -> Backend | None:
        if isinstance(value, str) and "://" not in value:
            value = self._imported(value, place)
        if value is None:
            return None
        try:
            return open_backend(value)
        except Exception as error:
            self._mistake(4, f"{place}: {error}", "Set it to a URL, a backend, or the dotted path of one.")
            return None

    def _imported(self, path: str, place: str) -> Any:
        try:
            return import_string(path)
        except Exception as error:  # whatever its module raises
            self._mistake(5, f"{place}: {path!r} can't be imported: {error}")
            return None

    def _callable(self, value: Any, place: str) -> Any:
        found = self._imported(value, place) if isinstance(value, str) else value
        is_handler = "EXCEPTION_HANDLER" in place
        if found is not None and (not callable(found) or (is_handler and inspect.iscoroutinefunction(found))):
            kind = "a plain callable" if is_handler else "a callable"
            self._mistake(6, f"{place} must be {kind} or the dotted path of one, not {value!r}.")
            return None
        return found

    def _alone(self, name: str, value: Any, place: str) -> None:
        """Says what is wrong with a value by itself."""
        try:
            Plan({"backend": "memory://", name: value})
        except Exception as error:
            # What only its default stands against is judged together with the others.
            if name != "lease" or not isinstance(value, int | float) or value <= 0:
                self._mistake(7, f"{place}: {error}.")

    def _together(self, options: dict[str, Any], where: str) -> None:
        """Says where values that are right by themselves contradict each other."""
        try:
            Plan(options)
        except Exception as error:
            self._mistake(8, f"{where}: {error}.")

    def _routes(self, given: Any) -> None:
        where = f"{SETTING}['ROUTES']"
        if not isinstance(given, Mapping):
            hint = 'Write it as {"/webhooks/*": {"REQUIRED": True}, "/health": None}.'
            self._mistake(9, f"{where} must be a dict, not {type(given).__qualname__}.", hint)
            return
        for pattern, own in given.items():
            if not isinstance(pattern, str) or not pattern.startswith(("/", "*")):
                self._mistake(10, f"{where}: {pattern!r} must start with '/' or '*'.", "Write '/pay' or '/webhooks/*'.")
            elif own is None:
                self.routes[pattern] = None
            elif isinstance(own, Mapping):
                self.routes[pattern] = self._options(own, f"{where}[{pattern!r}]")
            else:
                self._mistake(
                    11, f"{where}[{pattern!r}] must be a dict of options, or None to leave it out, not {own!r}."
                )


def _instead(name: Any) -> str:
    """What may be meant."""
    if isinstance(name, str):
        if (upper := name.upper()) in OPTIONS or upper == "ROUTES":
            return f"Its name is {upper!r}, in capitals."
        if hint := FACE.instead(name.lower(), lambda known: repr(known.upper())):
            return f"{hint[0].upper()}{hint[1:]}{'' if hint.endswith('?') else '.'}"
    return f"There are {', '.join(sorted(OPTIONS))}, ROUTES and EXCEPTION_HANDLER."


def mistakes(setting: Any) -> list[Mistake]:
    """Everything that is wrong with a setting.

    >>> [mistake.message for mistake in mistakes({"BACKEND": "memory://", "TLL": 60})]
    ["PYIDEMPOTENT['TLL']: there is no such option."]
    """
    return _Reader(setting).mistakes


_known: Configuration | None = None


def configuration() -> Configuration:
    """What the project's setting says; read once.

    Raises:
        ImproperlyConfigured: where there is none, or something is wrong with it.
    """
    global _known
    if _known is None:
        if not hasattr(settings, SETTING):
            raise ImproperlyConfigured(f'set {SETTING} = {{"BACKEND": "redis://localhost"}} in your settings')
        _known = Configuration(getattr(settings, SETTING))
    return _known


def default_backend() -> Backend | None:
    """The project's backend, which `@idempotent` takes that has none of its own; None where no project has one.

    Raises:
        ImproperlyConfigured: where something is wrong with the setting.
    """
    is_set = settings.configured and hasattr(settings, SETTING)
    return configuration().backend if is_set else None


def exception_handler() -> ExceptionHandler | None:
    """The project's own handler of refusals."""
    is_set = hasattr(settings, SETTING)
    return configuration().exception_handler if is_set else None


def _forget(*, setting: str, **_: Any) -> None:
    global _known
    if setting == SETTING:
        _known = None


#: A test overrides the setting.
setting_changed.connect(_forget)
