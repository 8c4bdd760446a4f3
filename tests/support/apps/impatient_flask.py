"""Flask behind the extension, with compression around it as Flask-Compress does it; see `impatient`."""

import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import impatient
from flask import Flask, Response, jsonify, request, send_file

from pyidempotent import idempotent
from pyidempotent.flask import Idempotency

app = Flask(__name__)


def answer(kind: str) -> Response:
    key = request.headers["Idempotency-Key"]
    impatient.note(key)
    if kind not in ("trickle", "endless"):
        time.sleep(impatient.WORK)  # it outlasts its client
    if kind == "json":
        return jsonify(charged=key)
    if kind == "file":
        return send_file(impatient.FILE, mimetype="text/plain")
    return Response(impatient.stream(key, kind), mimetype="text/plain")


@app.post("/<variant>/<kind>")
def protected(variant: str, kind: str) -> Response:
    return answer(kind)


@app.post("/decorated/<kind>")
@idempotent(lease=impatient.LEASE)
def decorated(kind: str) -> Response:
    return answer(kind)


def deflated(parts: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj()
    for part in parts:
        yield compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


@app.after_request
def compress(response: Response) -> Response:
    if "/gzip/" in request.path and response.status_code == 200 and not response.is_sequence:
        parts: Any = response.response
        response.direct_passthrough = False
        response.response = deflated(parts)
        response.headers["Content-Encoding"] = "deflate"
        response.headers.pop("Content-Length", None)
    return response


routes = {f"*/{kind}": options for kind, options in impatient.ROUTES.items()}
Idempotency(app, impatient.STORE, lease=impatient.LEASE, routes={"/decorated/*": None, **routes})
