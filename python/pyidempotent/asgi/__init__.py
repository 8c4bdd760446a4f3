"""Middleware for any ASGI application: stores and replays whole HTTP answers, byte for byte.

    app.add_middleware(IdempotencyMiddleware, backend="redis://localhost", scope=lambda request: request.user.id)

1. A request is protected if its method is POST or PATCH, or as ``methods=`` says, and it has a key, or its route
   requires one. Everything else reaches the application with the server's own ``receive`` and ``send``; a lifespan's
   end waits for the store.
2. The body is read first, up to ``max_request_bytes``: it is part of the payload. The application reads it again.
3. An answer streams while it is captured. The part that ends it is held until the record is stored.
4. A client that leaves does not end the work: the application receives ``http.disconnect`` only when its answer is
   whole, or when ``disconnect_grace`` has passed. Until then nothing that the server's ``send`` raises for a client
   that has left reaches it either.

Middleware replays before the application's own authorization runs: stand inside of the middleware that authenticates,
and outside of what only decorates answers. ``@idempotent`` on an endpoint runs after its dependencies.
"""

from __future__ import annotations

from pyidempotent.asgi._middleware import IdempotencyMiddleware
from pyidempotent.asgi._request import Request

__all__ = ["IdempotencyMiddleware", "Request"]
