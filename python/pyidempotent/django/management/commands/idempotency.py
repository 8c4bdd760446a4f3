"""``manage.py idempotency``: what an operator needs of keys.

manage.py idempotency list
manage.py idempotency get order-7 --operation "POST /pay" --caller 42
manage.py idempotency release order-7 --operation "POST /pay" --caller 42
manage.py idempotency resolve --id 5f3c… --status 201 --body '{"charged": 42}' --type application/json
manage.py idempotency purge
"""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from pyidempotent.backends import Answer, Backend, StoredRecord
from pyidempotent.django._configuration import configuration
from pyidempotent.exceptions import IdempotencyError

#: States in which nobody is at work, and nobody knows of a result.
_OPEN = ("unknown", "lapsed")


class Command(BaseCommand):
    """The command."""

    help = "Looks at idempotency keys, and settles those that only a person can."
    #: The setting is what it needs, and it says itself what is wrong with it.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Its subcommands."""
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (__doc__ or "").partition("\n\n")[2]
        actions = parser.add_subparsers(dest="action", required=True)

        listing = actions.add_parser("list", help="what is in flight, lapsed or unknown")
        listing.add_argument("--limit", type=int, default=1000, help="the most records (1000)")
        get = actions.add_parser("get", help="what stands under a key")
        _add_key(get)
        for shown in (listing, get):
            shown.add_argument("--json", action="store_true", help="one JSON document a line")

        release = actions.add_parser("release", help="frees a key: the next request with it runs")
        resolve = actions.add_parser("resolve", help="completes a key: every repeat gets this answer, and nothing runs")
        for changed in (release, resolve):
            _add_key(changed)
            changed.add_argument("--fence", type=int, help="only the record of this fence, as get shows it")
            changed.add_argument("--force", action="store_true", help="even if it is in flight, or done")
        resolve.add_argument("--status", type=int, help="the status of the answer (200)")
        resolve.add_argument("--body", help="its body")
        resolve.add_argument("--type", help="its content type")
        resolve.add_argument("--result", help="the result of a function, in JSON, in place of an answer")

        actions.add_parser("purge", help="removes what has expired, from a store that does not by itself")
        # Django's own options may stand behind the subcommand too.
        for action in actions.choices.values():
            for name in ("--settings", "--pythonpath", "--verbosity"):
                action.add_argument(name, default=SUPPRESS, help=SUPPRESS)
            for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
                action.add_argument(name, action="store_true", default=SUPPRESS, help=SUPPRESS)

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        """Runs one subcommand."""
        run = {
            "list": self.show_list,
            "get": self.show,
            "release": self.release,
            "resolve": self.resolve,
            "purge": self.purge,
        }[action]
        try:
            run(configuration().backend, options)
        except (IdempotencyError, ImproperlyConfigured, ValueError, TypeError) as error:
            raise CommandError(str(error)) from error

    def show_list(self, backend: Backend, options: dict[str, Any]) -> None:
        """What has no result yet."""
        records = backend.unfinished(options["limit"])
        for record in sorted(records, key=lambda record: record.fence):
            self._write(record, options["json"])
        if not records:
            self.stderr.write("Nothing is in flight, lapsed or unknown.")
        if len(records) == options["limit"]:
            self.stderr.write(f"There may be more than {len(records)}; pass --limit.")

    def show(self, backend: Backend, options: dict[str, Any]) -> None:
        """What stands under a key."""
        self._write(_found(backend, options), options["json"])

    def release(self, backend: Backend, options: dict[str, Any]) -> None:
        """Frees a key."""
        record = _settle(backend, options)
        self.stdout.write(f"released: {record.label}")

    def resolve(self, backend: Backend, options: dict[str, Any]) -> None:
        """Completes a key."""
        record = _settle(backend, options, result=_result(options))
        self.stdout.write(f"resolved: {record.label}")

    def purge(self, backend: Backend, options: dict[str, Any]) -> None:
        """Removes what has expired."""
        self.stdout.write(f"removed: {backend.purge()}")

    def _write(self, record: StoredRecord, as_json: bool) -> None:
        said: dict[str, Any] = {"state": record.state, "fence": record.fence}
        if record.state == "in flight":
            said["lease_left"] = round(record.lease_left, 1)
        if (answer := record.answer) is not None:
            said |= {"status": answer.status, "body": answer.body.decode("utf-8", "backslashreplace")}
        said["id"] = record.id
        if as_json:
            self.stdout.write(json.dumps({"label": record.label, **said}))
            return
        self.stdout.write(record.label)
        for name, value in said.items():
            self.stdout.write(f"  {name.replace('_', ' '):11}{value}")


def _add_key(parser: ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", help="the key")
    parser.add_argument("--operation", help='what it was used for: "POST /pay", or the name of a function')
    parser.add_argument("--caller", help="whose it is: what scope= returned, or the user's primary key")
    parser.add_argument("--namespace", help="of the key; by default the one of the setting")
    parser.add_argument("--id", help="the record, as list shows it, in place of all that")


def _found(backend: Backend, options: dict[str, Any]) -> StoredRecord:
    method, space, path = (options["operation"] or "").partition(" ")
    namespace = options["namespace"]
    if namespace is None:
        namespace = configuration().options.get("namespace", "")
    record = backend.get(
        options["key"],
        operation=(method, path) if space else options["operation"],
        caller=options["caller"],
        namespace=namespace,
        id=options["id"],
    )
    if record is None:
        raise CommandError("There is no such record: it has expired, or its operation or caller are others.")
    return record


def _settle(backend: Backend, options: dict[str, Any], **result: Any) -> StoredRecord:
    """An operator's word on a record, if it is one that waits for it."""
    record = _found(backend, options)
    if record.state not in _OPEN and not options["force"]:
        is_running = record.state == "in flight"
        why = "its attempt may still be running" if is_running else "it is done, and a repeat would get something else"
        raise CommandError(f"{record.label} is {record.state}: {why}. Pass --force if that is what you want.")
    fence = record.fence if options["fence"] is None else options["fence"]
    if not backend.resolve(id=record.id, fence=fence, force=options["force"], **result):
        raise CommandError(f"{record.label} has changed, or its fence is not {fence}; look at it again.")
    return record


def _result(options: dict[str, Any]) -> Any:
    """What a repeat gets: an answer, or the result of a function."""
    status, body, kind = options["status"], options["body"], options["type"]
    if options["result"] is not None:
        if (status, body, kind) != (None, None, None):
            raise CommandError("--result is for a function; --status, --body and --type are for a request")
        return json.loads(options["result"])
    if status is None and body is None:
        raise CommandError("say what a repeat gets: --status and --body, or --result for a function")
    content = (body or "").encode()
    headers = [] if kind is None else [(b"content-type", kind.encode("latin-1"))]
    return Answer(status or 200, [*headers, (b"content-length", b"%d" % len(content))], content)
