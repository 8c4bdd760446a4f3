"""Django: middleware that stores and replays whole answers, options of views, and what an operator needs.

    INSTALLED_APPS += ["pyidempotent.django"]
    MIDDLEWARE += ["pyidempotent.django.IdempotencyMiddleware"]
    PYIDEMPOTENT = {"BACKEND": "redis://localhost", "TTL": 24 * 3600}

The setting has the names of `pyidempotent.idempotent`'s keywords in capitals; callables may be dotted paths. Beside
these it has ``ROUTES`` and ``EXCEPTION_HANDLER``. ``manage.py check`` says what is wrong with it, and
``manage.py idempotency`` looks at keys.
"""

from pyidempotent.django._configuration import default_backend
from pyidempotent.django._marks import idempotency_exempt, idempotency_options, idempotency_required
from pyidempotent.django._middleware import IdempotencyMiddleware

__all__ = [
    "IdempotencyMiddleware",
    "default_backend",
    "idempotency_exempt",
    "idempotency_options",
    "idempotency_required",
]
