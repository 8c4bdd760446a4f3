"""The web figures of `make bench`: requests per second through the faces, beside the framework's own plain application.

Writes web.md here. Exits non-zero where a bar is missed that `KNOWN_MISSES` does not explain.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping

from load import GET, POST, Row, Subject, head, measure, table, write
from run import HERE, ROOT, ROUNDS, build_wheel, environment, machine

FASTAPI = ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "redis[hiredis]==8.1.0"]
WSGI = ["flask==3.1.3", "django==5.2.19", "gunicorn==27.0.1"]

#: What ours must reach of its floor, the least that anything would have to do: see `web_floor`.
OF_FLOOR = 0.8

#: Rows whose bar beside the plain application is missed, and why. A row that is missed and not here fails the run.
KNOWN_MISSES: dict[tuple[str, str], str] = {
    **{
        (f"{name}, Redis, new key", f"plain {name}"): (
            "Its floor is the plain application with two bare GETs. A sync call waits for the store on its own thread, "
            "and each time threads and the GIL change hands. Beyond the floor are about 40 µs of our own, and two "
            "scripts that take the server longer than bare GETs do"
        )
        for name in ("Flask", "Django")
    },
    **{
        (f"{name}, Redis, replay", f"plain {name}"): (
            "The bar is above its floor: the application with one bare GET and an answer that is ready. A replay "
            "spares the view and the rendering of its value, which here are less than a round trip; routing and what "
            "runs before the view, authentication above all, run for a replay too"
        )
        for name in ("Flask", "Django")
    },
    ("FastAPI, memory, new key", "plain"): (
        "Of fifteen rounds in three runs the median was 0.71 ×, and that of its floor, a middleware of thirty lines "
        "over a dict, 0.84 ×. By itself ours takes 8 µs beyond an application that does nothing, and 19 around "
        "FastAPI, whose code and ours evict each other from the caches; under load everything takes about 1.6 times as "
        "long. What is left is half the interpreter's (a dozen functions) and half the engine's (the claim, the lease, "
        "the record, two digests)"
    ),
}


def python(environment: str, command: tuple[str, ...], settings: Mapping[str, str]) -> Subject:
    """A server in Python, in one of the environments."""
    program = str(ROOT / ".bench" / environment / "bin" / "python")
    return Subject((program, "-m", *command), settings, may_refuse=environment == "web-idemkit")


UVICORN = ("uvicorn", "web_fastapi:app", "--port", "{port}", "--no-access-log", "--log-level", "warning")


def fastapi(environment: str, subject: str, store: str = "memory://") -> Subject:
    return python(environment, UVICORN, {"SUBJECT": subject, "STORE": store})


def wsgi(app: str, subject: str) -> Subject:
    """On gunicorn with threads, which keep connections open as uvicorn does."""
    options = ("--bind", "127.0.0.1:{port}", "--threads", "8", "--keep-alive", "60", "--log-level", "warning")
    return python("web-ours", ("gunicorn", *options, f"{app}:app"), {"SUBJECT": subject, "STORE": "{redis}"})


SUBJECTS = {
    "plain": fastapi("web-ours", "plain"),
    "redis": fastapi("web-ours", "ours", "{redis}"),
    "memory": fastapi("web-ours", "ours"),
    "idemkit redis": fastapi("web-idemkit", "idemkit", "{redis}"),
    "idemkit memory": fastapi("web-idemkit", "idemkit"),
    "a dict": fastapi("web-ours", "floor"),
    **{
        f"{prefix}{name}": wsgi(f"web_{name.lower()}", subject)
        for name in ("Flask", "Django")
        for prefix, subject in (
            ("", "ours"),
            ("plain ", "plain"),
            ("two GETs and ", "floor of a new key"),
            ("one GET before ", "floor of a replay"),
        )
    },
}

ROWS = [
    Row("FastAPI, Redis, new key", POST, "new", "redis", {"plain": 0.65, "idemkit redis": 2}),
    Row("FastAPI, Redis, replay", POST, "same", "redis", {"plain": 1.1, "idemkit redis": None}),
    Row("FastAPI, memory, new key", POST, "new", "memory", {"plain": 0.8, "a dict": OF_FLOOR, "idemkit memory": None}),
    Row("FastAPI, memory, replay", POST, "same", "memory", {"plain": 1.2, "idemkit memory": None}),
    Row("FastAPI, no key", POST, "none", "redis", {"plain": None}),
    Row("FastAPI, GET", GET, "same", "redis", {"plain": 0.97}, is_close=True),
    *(
        row
        for name in ("Flask", "Django")
        for row in (
            Row(
                f"{name}, Redis, new key",
                POST,
                "new",
                name,
                {f"plain {name}": 0.65, f"two GETs and {name}": OF_FLOOR},
            ),
            Row(
                f"{name}, Redis, replay",
                POST,
                "same",
                name,
                {f"plain {name}": 1.0, f"one GET before {name}": OF_FLOOR},
            ),
            Row(f"{name}, no key", POST, "none", name, {f"plain {name}": 0.97}, is_close=True),
            Row(f"{name}, GET", GET, "same", name, {f"plain {name}": 0.97}, is_close=True),
        )
    ),
]


def prepare() -> None:
    environment("web-ours", [*FASTAPI, *WSGI])
    environment("web-idemkit", ["idemkit==1.0.2", *FASTAPI])
    build_wheel("web-ours")


def alone() -> float:
    """Microseconds that a GET spends in the middleware itself."""
    python = ROOT / ".bench" / "web-ours" / "bin" / "python"
    answers = [float(subprocess.check_output([python, HERE / "web_alone.py"])) for _ in range(ROUNDS)]
    return statistics.median(answers)


def main() -> None:
    """Prepares, measures, writes."""
    prepare()
    others = measure(ROWS, SUBJECTS)
    own = alone()
    lines, missed = table(ROWS)
    within = own < 1
    lines += [
        "",
        f"A GET spends {own:.2f} µs in the ASGI middleware itself (the bar is 1 µs: {'✓' if within else 'missed'}).",
    ]
    if not within:
        missed.append((("A GET", "by itself"), f"{own:.2f} µs, the bar is 1 µs"))
    write("web.md", head("Web figures", machine(), others) + lines, missed, KNOWN_MISSES)


if __name__ == "__main__":
    main()
