"""The system checks: what ``manage.py check`` says of the setting, and of the middleware's place."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning
from django.core.checks import register as register_check

from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.django._configuration import SETTING, default_backend, mistakes

#: Whose word on a request must come before a replay of ours: they look at it when its view is known, as we do.
_BEFORE = (
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)


def register() -> None:
    """Registers them."""
    register_check(check_setting)
    register_check(check_middleware)
    register_check(check_deployment, Tags.security, deploy=True)


def check_setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Every mistake in the setting, each with an id of its own."""
    if not hasattr(settings, SETTING):
        if not any(map(_is_ours, settings.MIDDLEWARE)):
            return []
        hint = f'Set {SETTING} = {{"BACKEND": "redis://localhost"}}.'
        return [Error(f"The middleware of pyidempotent needs {SETTING}.", hint=hint, id="pyidempotent.E012")]
    found = mistakes(getattr(settings, SETTING))
    return [Error(message, hint=hint, id=f"pyidempotent.E{number:03}") for number, message, hint in found]


def check_middleware(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Whether the middleware is there, and below those that may refuse a request."""
    middleware = list(settings.MIDDLEWARE)
    ours = next(filter(_is_ours, middleware), None)
    if ours is None:
        if not hasattr(settings, SETTING):
            return []
        hint = "Add it as the last one; or silence this, where only @idempotent is used."
        message = f"{SETTING} is set, and MIDDLEWARE has no pyidempotent.django.IdempotencyMiddleware."
        return [Warning(message, hint=hint, id="pyidempotent.W001")]
    below = [name for name in _BEFORE if name in middleware[middleware.index(ours) :]]
    return [
        Warning(
            f"{name} stands below {ours}: a replay would be answered without it.",
            hint="Put the middleware of pyidempotent last.",
            id="pyidempotent.W002",
        )
        for name in below
    ]


def check_deployment(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """With ``--deploy``: records in the memory of one process are no protection for several."""
    if mistakes(getattr(settings, SETTING, {"BACKEND": ""})):
        return []
    setting = getattr(settings, SETTING)["BACKEND"]
    if not isinstance(default_backend(), MemoryBackend) and not str(setting).startswith("memory://"):
        return []
    hint = "Use redis:// or, on one machine, sqlite:///."
    message = f"{SETTING}['BACKEND'] keeps records in the memory of each process: another one runs a repeat again."
    return [Warning(message, hint=hint, id="pyidempotent.W003")]


def _is_ours(middleware: str) -> bool:
    return middleware.startswith("pyidempotent.django.")
