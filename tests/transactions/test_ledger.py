"""Transfers between accounts while workers and the server are killed: each is made exactly once."""

from __future__ import annotations

from pathlib import Path

import ledger

SIZE = {"transfers": 120, "copies": 3, "workers": 4, "kills": 8}


def seen(report: ledger.Report) -> None:
    assert report.wrong == []
    assert report.answers.total() == 360
    assert report.answers["ran"] <= 120
    assert report.deliberate == dict.fromkeys(ledger.DELIBERATE, 1)
    assert report.hits.total() > 0
    assert report.sums > 0


def test_on_postgres() -> None:
    report = ledger.on_postgres(**SIZE, crashes=1)
    seen(report)
    assert report.crashes == 1


def test_on_sqlite(tmp_path: Path) -> None:
    seen(ledger.on_sqlite(tmp_path, **SIZE))
