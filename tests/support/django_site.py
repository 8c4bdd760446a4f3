"""The Django project of the tests: its settings and its tables. Importing it sets Django up, once for all tests;
PYIDEMPOTENT is only set while a test of Django's runs."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import django
from django.conf import settings

_KEPT = tempfile.TemporaryDirectory(prefix="django-")  # until this process ends
FOLDER = Path(_KEPT.name)
OURS = "pyidempotent.django.IdempotencyMiddleware"

settings.configure(
    SECRET_KEY="tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="django_views",
    LOGGING_CONFIG=None,
    USE_TZ=True,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DATABASES={
        name: {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": FOLDER / f"{name}.db",
            "TEST": {"NAME": FOLDER / f"{name}.db"},
            "OPTIONS": {"timeout": 20},
        }
        for name in ("default", "other")
    },
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "rest_framework",
        "pyidempotent.django",
    ],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        OURS,
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [("django.template.loaders.locmem.Loader", {"paid.html": "paid by {{ user }}: {{ n }}"})],
                "context_processors": ["django.contrib.auth.context_processors.auth"],
            },
        }
    ],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "EXCEPTION_HANDLER": "django_views.rest_exception",
    },
)
django.setup()

from django.contrib.auth.models import Permission, User  # noqa: E402  # Django is set up first
from django.db import connection, connections  # noqa: E402

__all__ = ["Permission", "User", "connections"]

#: What ran: one entry for each run of a view.
RUNS: list[str] = []

#: The thread of each run.
THREADS: list[int] = []


def ran(what: str) -> int:
    RUNS.append(what)
    THREADS.append(threading.get_ident())
    return len(RUNS)


def make_tables() -> None:
    """The tables, once."""
    from django.core.management import call_command

    if "auth_user" in connection.introspection.table_names():
        return
    for name in connections:
        call_command("migrate", database=name, verbosity=0)
        with connections[name].cursor() as cursor:
            # A reference to nobody is found out at the commit.
            cursor.execute(
                "CREATE TABLE charges (id INTEGER PRIMARY KEY, amount INTEGER, "
                "user_id INTEGER REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED)"
            )


def charge(amount: int, user: int | None = None, using: str = "default") -> None:
    with connections[using].cursor() as cursor:
        cursor.execute("INSERT INTO charges (amount, user_id) VALUES (%s, %s)", [amount, user])


def charges(using: str = "default") -> list[int]:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT amount FROM charges ORDER BY id")
        return [amount for (amount,) in cursor.fetchall()]


#: What the views at the gate wait for.
GATE, BEGUN, ENDED = threading.Event(), threading.Event(), threading.Event()
