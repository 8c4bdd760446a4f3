"""The dashboard and the alert rules of docs/operations: they ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
import subprocess

import pages
from pyidempotent import _native
from servers import installed

FOLDER = pages.DOCS / "operations"

#: Of Prometheus' own.
TARGET = {"job", "instance"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def series() -> dict[str, set[str]]:
    """The labels of each series that Prometheus has."""
    return {
        name + suffix: {*labels, *TARGET, *(("le",) if suffix == "_bucket" else ())}
        for name, kind, _, _, labels, _ in _native.metrics()
        for suffix in SUFFIXES[kind]
    }


def check(query: str) -> set[str]:
    """The series of a query, which exist and have the labels that it names."""
    known = series()
    asked = set(re.findall(r"\bidempotency_\w+", query))
    assert asked, query
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
    for listed in re.findall(r"\bby \(([^)]*)\)", query):
        labels |= {label.strip() for label in listed.split(",")}
    for name in asked:
        assert name in known, query
        assert labels <= known[name], (name, labels - known[name])
    return asked


def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    assert board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    asked: set[str] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            names = check(target["expr"])
            asked |= names
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(shown <= series()[name] for name in names), target
    # Each metric stands on the dashboard.
    for name, kind, *_ in _native.metrics():
        assert any(name + suffix in asked for suffix in SUFFIXES[kind]), name


def test_the_variables_of_the_dashboard_are_declared() -> None:
    text = (FOLDER / "dashboard.json").read_text()
    declared = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == declared


def test_the_rules_ask_for_what_there_is() -> None:
    rules = (FOLDER / "alerts.yml").read_text()
    for query in re.findall(r"expr: (.*)", rules):
        for part in re.split(r" or ", query):
            check(part)


def test_the_rules_fire_when_they_should() -> None:
    promtool = installed("promtool", "apt-get install prometheus")
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_test() -> None:
    rules = set(re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text()))
    assert rules == set(re.findall(r"alertname: (\w+)", (FOLDER / "alerts_test.yml").read_text()))
