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

HERE = Path(__file__).parents[1]
SCENARIOS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "scenarios.toml").read_text())
_TABLE: dict[str, Any] = tomllib.loads((HERE / "faces.toml").read_text())
#: The announced number of cells of each product: ``test`` and ``matrix``.
CELLS: dict[str, int] = _TABLE["cells"]
#: What each store cannot show: scenario → why.
STORES: dict[str, dict[str, str]] = _TABLE["stores"]
#: How each server is started.
SERVERS: dict[str, list[str]] = _TABLE["servers"]


@dataclass(frozen=True)
class Face:
    """One line of ``faces.toml``.

    Parameters:
        name: what it is called.
        language: what its application is written in.
        app: its application, as the command of its server names it.
        server: what serves it.
        stores: the stores it runs on every day.
        never: stores it can't run on → why.
        lacks: scenario → why it does not apply.
    """

    name: str
    language: str
    app: str
    server: str
    stores: tuple[str, ...]
    never: Mapping[str, str]
    lacks: Mapping[str, str]

    def does_not_apply(self, store: str, scenario: str) -> str | None:
        """Why a cell is empty; ``None`` where it is not."""
        return self.lacks.get(scenario) or STORES[store].get(scenario)

    def runs_on(self, product: str) -> list[str]:
        """The stores of this face in a product: ``test`` or ``matrix``."""
        return [store for store in STORES if store in self.stores or (product == "matrix" and store not in self.never)]


FACES = [
    Face(
        name,
        language,
        line["app"],
        line["server"],
        tuple(line["stores"]),
        line.get("never", {}),
        _TABLE["lacks"].get(name, {}),
    )
    for language, lines in _TABLE["faces"].items()
    for name, line in lines.items()
]


def columns(product: str) -> list[tuple[Face, str]]:
    """The faces, each with each of its stores in a product."""
    return [(face, store) for face in FACES for store in face.runs_on(product)]


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
        words = {"app": self.face.app, "port": self.port, "python": sys.executable, "root": HERE.parent}
        return [part.format_map(words) for part in SERVERS[self.face.server]]

    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(HERE / "apps" / "python"),
            "PYTHONWARNINGS": "ignore",
            "STORE": self.store,
            "RUNS": str(self.folder),
        }

    def __enter__(self) -> FaceServer:
        super().__enter__()
        return self


#: What became of each cell: (face, store, scenario) → whether it passed.
RESULTS: dict[tuple[str, str, str], bool] = {}


def matrix(product: str) -> list[str]:
    """The cells of a product, as lines."""
    all_columns = columns(product)
    shown = {None: "·", True: "✓", False: "✗"}
    width = max(len(name) for name in SCENARIOS)
    lines = []
    for depth, (face, store) in enumerate(all_columns):
        lines.append(f"{'':{width}} {' │' * depth} ┌ {face.name} on {store}")
    for name in SCENARIOS:
        cells = [
            "–" if face.does_not_apply(store, name) else shown[RESULTS.get((face.name, store, name))]
            for face, store in all_columns
        ]
        lines.append(f"{name:{width}}  {' '.join(cells)}")
    passed = sum(RESULTS.values())
    empty = sum(bool(face.does_not_apply(store, name)) for face, store in all_columns for name in SCENARIOS)
    lines.append(f"{passed} of {CELLS[product]} cells passed, {empty} do not apply (conformance/faces.toml says why)")
    return lines
