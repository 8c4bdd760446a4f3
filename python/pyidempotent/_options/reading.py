"""`OptionReader`: how a face reads the options that it takes from the table."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pyidempotent._options.table import TAKERS, UNSET, documentation, options_of

T = TypeVar("T", bound=Callable[..., Any])


class OptionReader:
    """Reads the options that one face takes.

    Parameters:
        name: the face, as messages name it.
        fields: the TypedDict of its options.
        others: what else it takes by name.
        place: its parameter for where records live.

    >>> from pyidempotent._options.table import BlockOptions
    >>> OptionReader("attempt()", BlockOptions).read({"key": "a", "leese": 5})
    Traceback (most recent call last):
    TypeError: attempt(): unexpected keyword argument 'leese'; did you mean lease=?
    """

    def __init__(self, name: str, fields: Any, *others: str, place: str = "backend") -> None:
        self.name, self.fields = name, fields
        self.options = options_of(fields)
        self.names = {*self.options, *others, place}

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All of its options, as they were given and are worked with, or their defaults.

        Raises:
            TypeError, ValueError: for what it does not take, and for values that can't be.
        """
        self.refuse_unknown(given)
        read = {}
        for name, (_, option) in self.options.items():
            value = given.get(name, option.default)
            if value is UNSET:
                raise TypeError(f"{self.name} needs {name}=")
            read[name] = value if value is option.default else option.check(name, value)
        return read

    def refuse_unknown(self, given: Mapping[str, Any]) -> None:
        """Refuses what it does not take.

        Raises:
            TypeError: names the face, and the option that may be meant, or whose it is.
        """
        for name in given:
            if name not in self.names:
                is_another_s = any(name in options_of(fields) for fields in TAKERS.values())
                wrong = (
                    f"{name}= is no option of {self.name}"
                    if is_another_s
                    else f"{self.name}: unexpected keyword argument {name!r}"
                )
                hint = self.instead(name)
                raise TypeError(f"{wrong}{hint and f'; {hint}'}")

    def instead(self, name: str, written: Callable[[str], str] = "{}=".format) -> str:
        """What may be meant by a name that it does not take: an option's name of today, whose it is, or a near one.

        Parameters:
            written: an option, as the face's users write it.
        """
        for now, (_, option) in self.options.items():
            if name in option.formerly:
                return f"it is called {written(now)} now"
        taken = {who: options_of(fields).get(name) for who, fields in TAKERS.items()}
        if options := {who: found[1] for who, found in taken.items() if found is not None}:
            *some, last = options
            whose = f"{', '.join(some)} and {last}" if some else last
            return "; ".join(filter(None, (f"it belongs to {whose}", options[last].elsewhere)))
        close = difflib.get_close_matches(name, self.names, 1)
        return f"did you mean {written(close[0])}?" if close else ""

    def shows(self, target: T) -> T:
        """Decorates a function or a class that takes ``**options``: each of them is in its signature and its help."""
        function: Any = vars(target)["__init__"] if isinstance(target, type) else target
        plain = inspect.signature(function)
        parameters = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name, (kind, option) in self.options.items():
            default = inspect.Parameter.empty if option.default is UNSET else option.default
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
        function.__signature__ = plain.replace(parameters=parameters)
        if target.__doc__:  # there is none under -OO
            target.__doc__ = re.sub(r"^( *)options: .*\n(?:\1 .*\n)*", self._told, target.__doc__, flags=re.MULTILINE)
        return target

    def _told(self, place: re.Match[str]) -> str:
        """The documentation of its options, in the place of ``options:`` in a docstring."""
        texts, indent = documentation(self.fields.__name__), place[1]
        lines = []
        for name in self.options:
            text = texts.get(name, "")
            told = f"{name}: {text[:1].lower()}{text[1:]}"
            lines.append(textwrap.fill(told, 120, initial_indent=indent, subsequent_indent=f"{indent}    "))
        return "\n".join([*lines, ""])
