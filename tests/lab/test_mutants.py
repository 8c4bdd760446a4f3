"""The list of mutants fits the code. ``make lab-mutants`` builds each and lets the lab look for it."""

from __future__ import annotations

from lab.checker import PROMISES
from lab.mutants import MUTANTS, wrong_texts
from lab.scenarios import SCENARIOS


def test_what_they_change_is_in_the_code_once() -> None:
    assert wrong_texts() == []


def test_those_that_are_to_find_them_exist() -> None:
    for mutant in MUTANTS.values():
        assert all(store in SCENARIOS[scenario].stores for scenario, store in mutant.found_by)
        assert set(mutant.promises) <= set(PROMISES)
