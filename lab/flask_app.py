"""An application under gunicorn, whose workers are killed: ``LAB_OPTIONS``, a JSON object, says what it needs.

``url``, ``lease``, ``time_limit``, ``effects`` (a file). A request has its call in the header ``X-Call``, and writes
down which process took it before the product sees it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, request

from lab.bodies import Failed, begin, die, end, open_effects, process, store, take
from pyidempotent.flask import Idempotency

OPTIONS = json.loads(os.environ["LAB_OPTIONS"])

effects = open_effects(OPTIONS["effects"])
flask = Flask("lab")


def caller(request: Request) -> str:
    """Who calls, by a header."""
    return request.headers["X-Caller"]


Idempotency(
    flask,
    store(OPTIONS["url"], OPTIONS["time_limit"]),
    scope=caller,
    lease=OPTIONS["lease"],
    routes={"/refuse/*": {"after_crash": "refuse"}},
)


@flask.post("/<policy>/<operation>")
def run(policy: str, operation: str) -> str:
    """The body: works for as long as it was told, and answers with the number of its call."""
    call = json.loads(request.headers["X-Call"])
    if call["fate"] == "dies first":
        die(effects, process())
    begin(effects, call)
    time.sleep(call["work"])
    is_to_raise = end(effects, call)
    if call["fate"] == "dies last":
        die(effects, process())
    if is_to_raise:
        raise Failed
    return str(call["number"])


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Writes down who takes a request, and hands it on."""
    call = json.loads(environ["HTTP_X_CALL"])
    take(effects, call, OPTIONS["lease"])
    return flask(environ, start_response)
