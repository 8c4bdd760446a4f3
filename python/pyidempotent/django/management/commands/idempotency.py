"""``manage.py idempotency``: the operator's commands, on the backend of the setting.

manage.py idempotency list
manage.py idempotency get order-7 --operation "POST /pay" --caller 42
manage.py idempotency --help
"""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pyidempotent.backends._command import run
from pyidempotent.django._configuration import configuration

_NAME = "manage.py idempotency"

#: Django's own options.
_WITH_VALUE = ("--settings", "--pythonpath", "--verbosity")
_FLAGS = ("--traceback", "--no-color", "--force-color", "--skip-checks")


class Command(BaseCommand):
    """The command. What stands behind its name is read by the engine, but for Django's own options."""

    help = "Looks at idempotency keys, and settles those that only a person can."
    #: The setting is what it needs, and it says itself what is wrong with it.
    requires_system_checks = ()

    #: What a shell has given: it is told by an exit code how the command ends.
    _given: list[str] | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        """Whatever there is."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="a command and its options")

    def run_from_argv(self, argv: list[str]) -> None:
        """Runs what a shell has given. Django's own options may stand anywhere."""
        own: list[str] = []
        self._given, words = [], iter(argv[2:])
        for word in words:
            name, has_value, _ = word.partition("=")
            if word == "--":
                self._given += [word, *words]
            elif name in _WITH_VALUE and not has_value:
                own += [word, next(words, "")]
            elif name in _WITH_VALUE or word in _FLAGS:
                own.append(word)
            else:
                self._given.append(word)
        super().run_from_argv([*argv[:2], *own])

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """The help of the engine's commands, for ``manage.py help idempotency``."""
        run(["--help"], _NAME)

    def handle(self, *args: Any, arguments: list[str], **options: Any) -> None:
        """Runs one command."""
        try:
            configured = configuration()
        except (ImproperlyConfigured, ValueError, TypeError) as error:
            raise CommandError(str(error)) from error
        namespace = configured.options.get("namespace", "")
        on: dict[str, Any] = {
            "backend": configured.backend,
            "namespace": namespace if isinstance(namespace, str) else "",
        }
        if self._given is not None:
            if code := run(self._given, _NAME, **on):
                sys.exit(code)
            return
        # By call_command: whoever called is told by an exception.
        complaints = io.StringIO()
        self.stdout.ending = ""
        code = run(arguments, _NAME, files=(self.stdout, complaints), **on)  # type: ignore[arg-type]  # it is written to
        said = complaints.getvalue()
        if code:
            raise CommandError(said.strip(), returncode=code)
        self.stderr.write(said.strip(), ending="\n" if said else "")
