"""``pyidempotent routes module:app``: what of an application is protected, and what is not."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyidempotent._http.routes import path_pattern
from pyidempotent.testing._operations import Operation, operations_of

#: Those that have to be protected, and those that are idempotent by themselves if they are written so.
_MUST, _MAY = ("POST", "PATCH"), ("PUT", "DELETE")

_FAILED, _USAGE, _ENDANGERED = 1, 2, 5


def main(arguments: Sequence[str], name: str) -> int:
    """Runs the command and returns its exit code.

    Parameters:
        arguments: behind its name.
        name: what its users type.
    """
    parser = argparse.ArgumentParser(
        name,
        description="Shows every route of an application that changes something, and what protects it.",
        epilog="Exit codes: 0 done, 1 the application can't be read, 2 usage, 5 with --strict: not all is protected.",
    )
    parser.add_argument("app", help="module:app of FastAPI, Starlette, Flask or Django; module:make() calls a factory")
    parser.add_argument("--but", action="append", default=[], metavar="PATH", help="needs no protection: /login, /in/*")
    parser.add_argument("--strict", action="store_true", help="exit with 5 where something is not protected")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each operation")
    try:
        told = parser.parse_args(arguments)
    except SystemExit as ends:
        return int(ends.code or 0)
    try:
        app = _load(told.app)
        found = sorted(set(operations_of(app, [*_MUST, *_MAY])), key=lambda found: (found.path, found.method))
    except _NotFound as missing:
        sys.stderr.write(f"{missing}\n")
        return _USAGE
    except Exception as error:  # the application's own, whatever it is
        sys.stderr.write(f"{told.app} can't be read: {type(error).__name__}: {error}\n")
        return _FAILED
    left_out = [path_pattern(text) for text in told.but]
    open_ones = [
        operation
        for operation in found
        if not operation.by and operation.method in _MUST and not any(out.match(operation.path) for out in left_out)
    ]
    sys.stdout.write("".join(_json(found, open_ones) if told.json else _table(found, open_ones)))
    if open_ones:
        sys.stderr.write(f"{len(open_ones)} of {len(found)} change something and are not protected.\n")
    return _ENDANGERED if open_ones and told.strict else 0


class _NotFound(Exception):
    """There is no such application."""


def _load(named: str) -> Any:
    module_name, colon, path = named.partition(":")
    if not colon or not module_name or not path:
        raise _NotFound(f"{named!r} names no application; write module:app, as for a server")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _NotFound(f"there is no module {error.name!r} here or on PYTHONPATH") from error
    for name in path.removesuffix("()").split("."):
        if not hasattr(found, name):
            raise _NotFound(f"{module_name} has no {path.removesuffix('()')}")
        found = getattr(found, name)
    return found() if path.endswith("()") else found


def _said(operation: Operation, open_ones: Sequence[Operation]) -> str:
    if operation.by:
        return operation.by
    if operation in open_ones:
        return "NOT PROTECTED"
    return "left out" if operation.method in _MUST else "nothing"


def _json(found: Sequence[Operation], open_ones: Sequence[Operation]) -> list[str]:
    lines = []
    for operation in found:
        told = {**operation._asdict(), "by": operation.by or None, "open": operation in open_ones}
        lines.append(json.dumps(told) + "\n")
    return lines


def _table(found: Sequence[Operation], open_ones: Sequence[Operation]) -> list[str]:
    rows = [("METHOD", "PATH", "PROTECTED BY", "KEY", "CALLER")]
    for operation in found:
        key = ("required" if operation.required else "optional") if operation.by else "-"
        said = _said(operation, open_ones)
        rows.append((operation.method, operation.path, said, key, operation.scope or "-"))
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) + "\n"
        for row in rows
    ]
