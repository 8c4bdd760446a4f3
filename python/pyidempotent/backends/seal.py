"""`Seal`: the keys that results are encrypted with before they leave the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pyidempotent import _native

__all__ = ["Seal", "SealKey", "Sealing", "sealing"]

#: A key: 32 random bytes, or their text, 64 hexadecimal digits or base64.
SealKey: TypeAlias = bytes | str


class Seal:
    """Keys that results are sealed with before they leave the process, by XChaCha20-Poly1305.

    Each result is bound to its key and to what was asked for: put under another key, or changed, it can't be opened.
    What can't be opened is an `IdempotencyStoreUnavailable`; nothing runs past it, and the record stays as it is.

    Parameters:
        keys: 32 random bytes each, as bytes, as 64 hexadecimal digits, in base64, or several as text with commas
            between them. The first seals, all of them open.
        names: a key of its own that hides names too: storage keys and fingerprints are keyed by HMAC-SHA-256, labels
            are sealed. It is never rotated: another one, or none, finds no record of before, and **runs again** what
            stands under it.
        plain: whether results that are not sealed are read, so that a store with records can be sealed from now on.
            With False they are refused.

    Raises:
        TypeError, ValueError: for what is no key. The message shows nothing of it.

    >>> from pyidempotent.backends.memory import MemoryBackend
    >>> backend = MemoryBackend(seal=Seal(Seal.new_key()))
    >>> Seal("hunter2")
    Traceback (most recent call last):
    ValueError: seal: key 1 is not 32 bytes, written as 64 hexadecimal digits or in base64
    """

    __slots__ = ("native",)

    def __init__(self, *keys: SealKey, names: SealKey | None = None, plain: bool = True) -> None:
        if not isinstance(plain, bool):
            raise TypeError(f"plain must be True or False, not a {type(plain).__qualname__}")
        written = ",".join(_text(key) for key in keys)
        self.native = _native.Seal(written, None if names is None else _text(names), plain)

    @staticmethod
    def new_key() -> str:
        """A new key: 32 bytes from the operating system, in base64."""
        return _native.Seal.new_key()

    @classmethod
    def from_environment(cls) -> Seal | None:
        """Of ``IDEMPOTENCY_SEAL_KEYS``, keys with commas between them, and ``IDEMPOTENCY_SEAL_NAMES``, the names' key.

        None where neither is set.

        Raises:
            ValueError: for what is no key. The message names the variable, and shows nothing of what stands there.
        """
        native = _native.Seal.from_environment()
        if native is None:
            return None
        seal = cls.__new__(cls)
        seal.native = native
        return seal

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seal) and self.native == other.native

    def __hash__(self) -> int:
        return hash(self.native)

    def __repr__(self) -> str:
        return "Seal(…)"


#: What ``seal=`` takes.
Sealing: TypeAlias = Seal | SealKey | Sequence[SealKey]


def sealing(seal: Sealing | None) -> _native.Seal | None:
    """The engine's side of what ``seal=`` is given.

    Raises:
        TypeError, ValueError: for what is no key. The message shows nothing of it.
    """
    if seal is None:
        return None
    if isinstance(seal, Seal):
        return seal.native
    return (Seal(seal) if isinstance(seal, str | bytes) else Seal(*seal)).native


def _text(key: SealKey) -> str:
    if isinstance(key, bytes):
        return key.hex()
    if isinstance(key, str):
        return key
    # Not what it is: that is secret.
    raise TypeError(f"a key to seal with is bytes or a str, not a {type(key).__qualname__}")
