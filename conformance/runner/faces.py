"""The faces of the conformance suite: their applications under real servers, and the matrix."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import Server, free_port

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

HERE = Path(__file__).parent.parent / "conformance"
SCENARIOS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "scenarios.toml").read_text())
_TABLE: dict[str, Any] = tomllib.loads((HERE / "faces.toml").read_text())
CELLS: int = _TABLE["cells"]
#: What each store cannot show: scenario → why.
STORES: dict[str, dict[str, str]] = _TABLE["stores"]

_GUNICORN = ["--bind", "127.0.0.1:{port}", "--timeout", "120", "--log-level", "warning", "{app}:app"]

#: How each server is started, on a port, for the application in a module.
COMMANDS: dict[str, list[str]] = {
    "uvicorn": ["uvicorn", "{app}:app", "--port", "{port}", "--loop", "asyncio", "--log-level", "warning"],
    "uvicorn-uvloop": ["uvicorn", "{app}:app", "--port", "{port}", "--loop", "uvloop", "--log-level", "warning"],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "--log-level", "warning", "{app}:app"],
    "gunicorn": ["gunicorn", "--workers", "4", *_GUNICORN],
    "gunicorn-threads": ["gunicorn", "--worker-class", "gthread", "--threads", "64", *_GUNICORN],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "--log-level", "warning", "{app}:app"],
}


@dataclass(frozen=True)
class Face:
    """One line of ``faces.toml``.

    Parameters:
        name: what it is called.
        app: the module of its application.
        server: what serves it.
        stores: the stores it runs on.
        lacks: scenario → why it does not apply.
    """

    name: str
    app: str
    server: str
    stores: tuple[str, ...]
    lacks: Mapping[str, str]

    def does_not_apply(self, store: str, scenario: str) -> str | None:
        """Why a cell is empty; ``None`` where it is not."""
        return self.lacks.get(scenario) or STORES[store].get(scenario)


FACES = [
    Face(name, line["app"], line["server"], tuple(line["stores"]), _TABLE.get("lacks", {}).get(name, {}))
    for name, line in _TABLE["faces"].items()
]


class FaceServer(Server):
    """A face's application on a store.

    Parameters:
        face: the face.
        store: the URL of its store.
        folder: where its runs are counted.
    """

    is_group = True

    def __init__(self, face: Face, store: str, folder: Path) -> None:
        super().__init__()
        self.port = free_port()
        self.face = face
        self.store = store
        self.folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        filled = [part.format(app=self.face.app, port=self.port) for part in COMMANDS[self.face.server]]
        return [sys.executable, "-m", *filled]

    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(HERE / "apps"),
            "PYTHONWARNINGS": "ignore",
            "STORE": self.store,
            "RUNS": str(self.folder),
        }

    def __enter__(self) -> FaceServer:
        super().__enter__()
        return self


#: What became of each cell: (face, store, scenario) → whether it passed.
RESULTS: dict[tuple[str, str, str], bool] = {}


def matrix() -> list[str]:
    """The matrix face × store × scenario, as lines."""
    columns = [(face, store) for face in FACES for store in face.stores]
    shown = {None: "·", True: "✓", False: "✗"}
    width = max(len(name) for name in SCENARIOS)
    lines = []
    for depth, (face, store) in enumerate(columns):
        lines.append(f"{'':{width}} {' │' * depth} ┌ {face.name} on {store}")
    for name in SCENARIOS:
        cells = [
            "–" if face.does_not_apply(store, name) else shown[RESULTS.get((face.name, store, name))]
            for face, store in columns
        ]
        lines.append(f"{name:{width}}  {' '.join(cells)}")
    passed = sum(RESULTS.values())
    empty = sum(bool(face.does_not_apply(store, name)) for face, store in columns for name in SCENARIOS)
    lines.append(f"{passed} of {CELLS} cells passed, {empty} do not apply (conformance/faces.toml says why)")
    return lines
