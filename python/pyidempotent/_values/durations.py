"""Durations, as users give them."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

#: Seconds, or a timedelta.
Seconds = float | timedelta


def seconds(name: str, value: Any) -> float:
    """A duration as seconds.

    Raises:
        TypeError: where it is not a number or a timedelta.
        ValueError: where it is negative or not finite.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds (a number) or a timedelta, not {value!r}")
    try:
        in_range = math.isfinite(value) and value >= 0
    except OverflowError:  # of an int beyond every float
        in_range = False
    if not in_range:
        raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")
    return float(value)
