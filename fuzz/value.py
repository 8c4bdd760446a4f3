"""The decoder of stored values, under atheris: `make fuzz`.

The extension makes real objects, and asks ``_values/parts.py`` to put some of them together: the target is in Python.
``tests/values/test_corpus.py`` takes ``corpus/value`` through the same function.
"""

from __future__ import annotations

import sys


def value(data: bytes) -> None:
    """Bytes are a value that comes back equal, or an error. Classes are named by annotations, and here by none."""
    from pyidempotent import _native

    try:
        decoded = _native.decode(data, {})
    except Exception:  # whoever replays it says that the result can't be made again; a crash or a panic is none
        return
    encoded = _native.encode(decoded, {})
    assert _native.encode(_native.decode(encoded, {}), {}) == encoded, "a value has one encoding"


if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["pyidempotent._values"]):
        import pyidempotent  # noqa: F401
    atheris.Setup(sys.argv, value)
    atheris.Fuzz()
