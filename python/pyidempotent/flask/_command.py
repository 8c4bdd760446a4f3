"""``flask idempotency …``: the operator's commands, on the extension's backend."""

from __future__ import annotations

from collections.abc import Callable

import click

from pyidempotent.backends import Backend
from pyidempotent.backends._command import run

#: Every word behind the name is the engine's to read, ``--help`` too.
_AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": list[str]()}


def command(backend_of: Callable[[], tuple[Backend, str]]) -> click.Command:
    """The command of an application.

    Parameters:
        backend_of: says the backend, and the namespace of its keys.
    """

    @click.command(
        "idempotency",
        short_help="Looks at idempotency keys, and settles those that only a person can.",
        context_settings=_AS_IT_IS,
        add_help_option=False,
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def idempotency(context: click.Context, arguments: tuple[str, ...]) -> None:
        backend, namespace = backend_of()
        context.exit(run(arguments, context.command_path, backend=backend, namespace=namespace))

    return idempotency
