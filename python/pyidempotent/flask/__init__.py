"""The extension for Flask: stores and replays whole answers, byte for byte.

    Idempotency(app, "redis://localhost", scope=lambda request: g.user.id)

1. A request is protected if its method is POST or PATCH, or as ``methods=`` says, a view answers it, and it has a key,
   or its view requires one. Everything else is dispatched as ever.
2. The key is claimed, and a stored answer is replayed, where the view would be called: ``before_request`` functions
   have run, and ``after_request`` functions run on every answer, replays too. What these add is not stored; what the
   view and the error handlers make, with what they add by ``after_this_request``, is.
3. The answer is stored when the application has done all that it does for the request, its teardown too, and before
   the answer goes out. What fails until then, like a commit in a teardown function, makes a failed request of it.
4. A streamed body is produced after the teardown: it is captured while the server reads it, and the part that ends it
   is held until the answer is stored.
"""

from pyidempotent.flask._extension import Idempotency

__all__ = ["Idempotency"]
