"""A Flask application with one view behind the extension, and a client of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from clients import LocalWsgi, new_key
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

OPERATION = ("POST", "/pay")


class Shop:
    """An application with one view, and a client of it."""

    def __init__(self, view: Callable[[], Any] | None = None, *, testing: bool = False, **options: Any) -> None:
        self.app = Flask("shop")
        self.app.testing = testing
        self.app.secret_key = "secret"
        self.runs = 0
        self.backend = options.setdefault("backend", MemoryBackend())
        self.idempotency = Idempotency(self.app, **options)
        self.client = LocalWsgi(self.app)
        self.key = new_key()
        if view is not None:
            self.app.add_url_rule("/pay", "pay", self.counted(view), methods=["GET", "POST", "PATCH", "PUT"])

    def counted(self, view: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return view(*args, **kwargs)

        return run

    def pay(self, path: str = "/pay", **more: Any) -> Any:
        return self.client.post(path, self.key, **more)

    @property
    def state(self) -> str | None:
        record = self.backend.get(self.key, operation=OPERATION)
        return None if record is None else record.state


def number() -> dict[str, str]:
    return {"number": new_key()}
