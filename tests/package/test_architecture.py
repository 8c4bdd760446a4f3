"""The arrows: which part imports which, in both languages; and that no files import each other in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, EXTENSION = ROOT / "crates/idempotency/src", ROOT / "crates/pyidempotent/src"

#: Of the extension: a folder (or a file beside them), and what it may import of this crate.
ARROWS: dict[str, set[str]] = {
    "boundary": set(),
    "value": {"boundary"},
    "stores": {"boundary"},
    "calls": {"stores", "boundary"},
    "function": {"calls", "value", "boundary"},
    "http": {"calls", "value", "boundary"},
    "flow": {"http", "function", "calls", "value", "boundary"},
    "events": {"boundary"},
    "cli": {"stores", "boundary"},
    "transactions": {"flow", "calls", "stores", "boundary"},
    "bare_get": {"boundary"},
    "console": {"stores", "boundary"},
}

#: Of the core: a part, and what it may import of it. What is not named is the pure core, which knows none of these.
PARTS: dict[str, set[str]] = {
    "http": {"fingerprint", "result_tags"},
    "events": {"error", "http", "key", "process"},
    "ages": {"clock", "engine", "error", "events", "record", "store"},
    "seen": {"decide", "record"},
    "tower": {"decide", "engine", "events", "fingerprint", "http", "key"},
    "cli": {
        "clock",
        "console",
        "decide",
        "engine",
        "error",
        "fingerprint",
        "http",
        "key",
        "record",
        "result_tags",
        "seal",
        "seen",
        "store",
        "stores",
        "words",
    },
    "console": {
        "clock",
        "decide",
        "engine",
        "error",
        "fingerprint",
        "http",
        "key",
        "record",
        "result_tags",
        "seen",
        "store",
        "words",
    },
    "function": {"decide", "engine", "error", "fingerprint", "key", "process", "result_tags", "transactions"},
    "engine": {
        "clock",
        "decide",
        "error",
        "events",
        "fingerprint",
        "form",
        "key",
        "process",
        "record",
        "result_tags",
        "store",
    },
    "seal": {"decide", "error", "fingerprint", "form", "key", "record", "result_tags", "store"},
    "stores": {"clock", "decide", "error", "key", "process", "record", "schema", "step", "store"},
    "transactions": {
        "clock",
        "decide",
        "engine",
        "error",
        "events",
        "fingerprint",
        "form",
        "key",
        "record",
        "result_tags",
        "schema",
        "step",
    },
    "conformance": {"clock", "decide", "error", "fingerprint", "key", "record", "step", "store", "stores"},
}

PACKAGE = ROOT / "python/pyidempotent"

_SHARED = {"_calls", "_http", "_lifecycle", "_native", "_options", "_values", "backends", "exceptions"}

#: Of the package: a module or a folder, and what it may import of the package. What faces share imports no face.
ROOMS: dict[str, set[str]] = {
    "exceptions": {"_native"},
    "_values": {"_native"},
    "_lifecycle": {"_native", "_values"},
    "_frameworks": set(),
    "backends": {"_native", "_values"},
    "_options": {"_native", "_values", "backends"},
    "_calls": {"_frameworks", "_native", "_options", "_values", "backends", "exceptions"},
    "_http": {"_calls", "_native", "_options", "_values", "backends", "exceptions"},
    "asgi": _SHARED,
    "fastapi": {*_SHARED, "asgi"},
    "flask": _SHARED,
    "django": {*_SHARED, "console"},
    "console": {"_native", "backends"},
    "celery": _SHARED,
    "transactions": {"_calls", "_frameworks", "_native", "_options", "_values", "exceptions"},
    "testing": {*_SHARED, "", "asgi", "django", "flask"},
    "_pytest_plugin": {"testing"},
    "cli": {"_http", "backends", "testing"},
    "__main__": {"cli"},
    "instrumentation": {"_calls", "_lifecycle", "_native", "_values", "backends", "exceptions"},
    "": {"_calls", "_lifecycle", "_native", "_values", "exceptions", "transactions"},
}


def modules(folder: Path) -> dict[str, str]:
    """The modules of a crate by their path, as ``boundary::runtime``, and their text without comments and tests."""
    found = {}
    for file in sorted(folder.rglob("*.rs")):
        name = "::".join(file.relative_to(folder).with_suffix("").parts).removesuffix("::mod")
        text = re.sub(r"//.*", "", file.read_text()).partition("#[cfg(test)]\nmod tests")[0]
        found[name] = text
    found.pop("lib")
    return found


def used(name: str, text: str, known: Mapping[str, str]) -> Iterator[str]:
    """The modules of its crate that a module names."""
    parent, _, _ = name.rpartition("::")
    # A folder's own `mod.rs` names what is beside it by `self`, the files in it by `super`.
    is_folder = any(other.startswith(f"{name}::") for other in known)
    above = name if is_folder else parent
    for head, tail in re.findall(r"\b(crate|super|self)((?:::\w+|::\{[^;]*?\})+)", text):
        base = {"crate": "", "super": parent if is_folder or not parent else above, "self": name}[head]
        for path in paths(tail):
            whole = [part for part in (*base.split("::"), *path) if part]
            while whole and "::".join(whole) not in known:
                whole.pop()
            if whole and "::".join(whole) != name:
                yield "::".join(whole)


def paths(tail: str) -> Iterator[list[str]]:
    """The paths of a use tree, ``::a::{b, c::d}``."""
    before, brace, inside = tail.partition("::{")
    start = [part for part in before.split("::") if part]
    if not brace:
        yield start
        return
    for part in re.split(r",\s*", inside.rstrip("}")):
        yield [*start, *(name for name in re.split(r"::|\{", part.strip().rstrip("}")) if name and name != "self")]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, each circle once."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in order:
            visit(name)
    return found


def graph_of(folder: Path) -> dict[str, set[str]]:
    known = modules(folder)
    # A folder's `mod.rs` that only lists its files is no part of a circle.
    return {name: set(used(name, text, known)) for name, text in known.items()}


def test_the_extension_s_arrows() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph_of(EXTENSION).items()
        for other in sorted(others)
        if (part := name.partition("::")[0]) != (there := other.partition("::")[0]) and there not in ARROWS[part]
    ]
    assert wrong == []


def test_the_core_s_arrows() -> None:
    wrong = []
    for name, others in graph_of(CORE).items():
        part = name.partition("::")[0]
        for other in sorted(others):
            there = other.partition("::")[0]
            allowed = PARTS[part] if part in PARTS else {other for other in modules(CORE) if other not in PARTS}
            if there != part and there not in allowed:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_nothing_is_made_where_a_fork_would_leave_it_half_made() -> None:
    lets_go_of_the_gil = re.compile(r"^(?!\s*//).*(PyOnceLock|GILOnceCell|pyo3::intern|pyo3::\{.*\bintern\b)", re.M)
    found = [path.name for path in EXTENSION.rglob("*.rs") if lets_go_of_the_gil.search(path.read_text())]
    assert found == [], "take boundary/once.rs, which says why"


@pytest.mark.parametrize("folder", [CORE, EXTENSION], ids=["core", "extension"])
def test_no_circles(folder: Path) -> None:
    assert circles(graph_of(folder)) == []


def test_one_file_names_the_package_s_modules() -> None:
    naming = {
        name
        for name, text in modules(EXTENSION).items()
        if re.search(r'"pyidempotent[.\w]*"', re.sub(r'module = "[\w.]+"', "", text))
    }
    assert naming == {"boundary::python"}


def package_graph() -> dict[str, set[str]]:
    """The package's modules, and those that each imports when it runs."""
    files = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    files = {"" if name == "__init__" else name.removesuffix(".__init__"): file for name, file in files.items()}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text())
        graph[name] = set()
        for_types = (
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        left_out = {inner for node in for_types for inner in ast.walk(node)}
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in left_out)
        for node in imports:
            package, _, module = (node.module or "").partition(".")
            if package == "pyidempotent":
                for alias in node.names:
                    full = f"{module}.{alias.name}".strip(".")
                    graph[name].add(full if full in files or full == "_native" else module)
        graph[name].discard(name)
    return graph


def test_the_package_s_arrows() -> None:
    wrong = [
        f"{name or 'pyidempotent'} imports {other or 'pyidempotent'}"
        for name, others in package_graph().items()
        for other in sorted(others)
        if (part := name.partition(".")[0]) != (there := other.partition(".")[0]) and there not in ROOMS[part]
    ]
    assert wrong == []
    assert circles(package_graph()) == []


def test_the_reader_of_imports_sees_them() -> None:
    known = {"a": "", "a::b": "", "a::c": "", "d": ""}
    assert set(used("a::b", "use super::c::X; use crate::d::{Y, Z}; crate::a::c::w();", known)) == {"a::c", "d"}
    assert set(used("d", "use crate::a::{b, c::T};", known)) == {"a::b", "a::c"}
    assert circles({"a": {"b"}, "b": {"a", "c"}, "c": set()}) == [["a", "b"]]


PAGE = (ROOT / "ARCHITECTURE.md").read_text()

#: The folders that the page calls by a short name.
FOLDERS = {"py": PACKAGE, "ext": EXTENSION, "core": CORE}

#: A path on the page that starts with such a name, and a name in code font behind it.
NAMED = re.compile(r"\b(py|ext|core)/([\w/.]+\w|[\w/]+/)(?:\s+`([\w:.]+)`)?")


def test_what_the_page_names_is_there() -> None:
    named = [match for match in NAMED.finditer(PAGE) if "NAME" not in match[2]]
    files = {match[0]: FOLDERS[match[1]] / match[2] for match in named}
    paths = re.findall(r"`([\w/.-]+/[\w.-]*)`|`([\w.-]+\.(?:toml|md))`", PAGE)
    files |= {name: ROOT / name for pair in paths for name in pair if name and "NAME" not in name}
    assert {name for name, file in files.items() if not file.exists()} == set()
    assert len(files) > 60
    inside = {
        match[0]
        for match in named
        if match[3] and re.split(r"::|\.", match[3])[-1] not in (FOLDERS[match[1]] / match[2]).read_text()
    }
    assert inside == set()


def test_the_page_lists_every_room() -> None:
    tree = PAGE.partition("## The tree")[2].split("```")[1]
    starts = [tree.index(f"(below: {name}/)") for name in FOLDERS] + [tree.index("\nconformance/ ")]
    for folder, start, end in zip(FOLDERS.values(), starts, starts[1:], strict=False):
        rooms = {entry.name.partition(".")[0] for entry in folder.iterdir()} - {"__init__", "__pycache__", "lib", "py"}
        assert rooms - set(re.findall(r"\w+", tree[start:end])) == set(), folder
    rest = {folder.name for folder in (ROOT / "tests").iterdir() if folder.is_dir()}
    assert rest - {"__pycache__"} - set(re.findall(r"\w+", tree)) == set()
