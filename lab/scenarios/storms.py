"""Storms of ``kill -9`` over the workers of real servers."""

from __future__ import annotations

from lab.checker import Broken
from lab.fleets import CeleryStorm, GunicornStorm, Storm
from lab.history import History
from lab.places import Place
from lab.settings import Settings


def gunicorn(place: Place, settings: Settings, seed: int) -> tuple[History, list[Broken]]:
    """Gunicorn's workers, under a Flask application."""
    return _run(GunicornStorm(place, settings, seed))


def celery(place: Place, settings: Settings, seed: int) -> tuple[History, list[Broken]]:
    """A Celery worker's processes, and the whole worker."""
    return _run(CeleryStorm(place, settings, seed))


def _run(storm: Storm) -> tuple[History, list[Broken]]:
    history = storm.run()
    return history, storm.broken
