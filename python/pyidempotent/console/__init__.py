"""The operator's page, mounted in an application.

It shows what is in flight, lapsed, unknown and done, and lets a person end what nobody else can. `app` is the page for
ASGI, `wsgi` for WSGI; Django's admin shows it by itself. Who may see it is the application's to say::

    from pyidempotent import console

    def operator(scope):
        user = scope["user"]    # what the application's own authentication has put there
        return user.is_operator and user.name

    app.mount("/ops/idempotency", console.app("redis://localhost", allow=operator))
"""

from pyidempotent.console._asgi import app
from pyidempotent.console._wsgi import wsgi

__all__ = ["app", "wsgi"]
