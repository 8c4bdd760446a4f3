"""What the faces share that see HTTP: the rules over a request's facts, routes, endpoints, streams, clients that leave.

Imports calls, callers and the extension. The rules themselves are the core's, in ``idempotency::http``.
"""
