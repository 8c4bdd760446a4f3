"""The command line on a store whose results are sealed: it takes the keys from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import pyidempotent
from pyidempotent import attempt
from pyidempotent.backends import Seal
from pyidempotent.backends.sqlite import SqliteBackend

GET = ("get", "order-7", "--operation", "shop.charge", "--show-body")


@pytest.mark.parametrize("hides_names", [False, True])
def test_a_sealed_result_is_shown_to_whoever_has_the_keys(tmp_path: Path, hides_names: bool) -> None:
    keys = {"IDEMPOTENCY_SEAL_KEYS": Seal.new_key()}
    names = Seal.new_key() if hides_names else None
    if names is not None:
        keys["IDEMPOTENCY_SEAL_NAMES"] = names
    backend = SqliteBackend(tmp_path / "i.db", seal=Seal(keys["IDEMPOTENCY_SEAL_KEYS"], names=names))
    with attempt(backend, key="order-7", name="shop.charge") as work:
        work.result = {"charged": 4711}
    url = f"sqlite:///{tmp_path}/i.db"

    shown = pyidempotent(*GET, url=url, **keys)
    assert (shown.code, "completed" in shown.out) == (0, True), shown
    assert "shop.charge order-7" in shown.out
    listed = pyidempotent("list", "--state", "completed", url=url, **keys)
    assert "shop.charge" in listed.out

    without = pyidempotent(*GET, url=url)
    assert (without.code, "sealed" in without.out) == ((3, False) if hides_names else (0, True)), without
    wrong = pyidempotent(*GET, url=url, IDEMPOTENCY_SEAL_KEYS="x")
    assert "IDEMPOTENCY_SEAL_KEYS" in wrong.err
    assert wrong.code != 0
