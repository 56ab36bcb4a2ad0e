"""What the commands about tenants share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants import conf
from pg_tenants.models import tenant_model

__all__ = ["add_fields", "add_new_tenant", "find_tenant", "parse_fields", "progress_of", "refusal_of", "say_who_knows"]


def add_new_tenant(parser: CommandParser) -> None:
    """Add the arguments that say what a new tenant is."""
    parser.add_argument("schema_name", help="The schema, which is also the tenant's name in commands.")
    parser.add_argument("--domain", help="The host that leads to the tenant, such as acme.example.com.")
    parser.add_argument("--module", default="", help="The tenant module, where the project has several.")
    add_fields(parser)


def add_fields(parser: CommandParser, more: str = "") -> None:
    """Add ``--set FIELD=VALUE``, which ``parse_fields`` reads."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="fields",
        help=f"A field of the tenant model, such as --set name=Acme; repeatable.{more}",
    )


def find_tenant(schema_name: str) -> Any:
    """Return the tenant of a schema.

    Raises:
        CommandError: there is none; the message names the nearest.
    """
    manager = tenant_model()._default_manager
    tenant = manager.filter(schema_name=schema_name).first()
    if tenant is None:
        names = list(manager.order_by("schema_name").values_list("schema_name", flat=True))
        hint = conf.nearest(schema_name, names) if names else "There is no tenant yet."
        raise CommandError(f"There is no tenant {schema_name!r}. {hint}")
    return tenant


def parse_fields(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``--set FIELD=VALUE`` options by the fields' names.

    Raises:
        CommandError: the tenant model has no such field, or not such a value.
    """
    return dict(_field(text) for text in texts)


def refusal_of(exc: ValidationError) -> CommandError:
    """Return the error of a tenant or a domain that is not as it should be; it names the fields that ``--set`` has."""
    if not hasattr(exc, "error_dict"):
        return CommandError("\n".join(exc.messages))
    lines = []
    for name, texts in exc.message_dict.items():
        own = name in (NON_FIELD_ERRORS, "schema_name", "module", "domain")
        lines += [text if own else f"{name}: {text} Give it by --set {name}=VALUE." for text in texts]
    return CommandError("\n".join(lines))


def progress_of(command: BaseCommand, options: dict[str, Any]) -> Callable[[str], None] | None:
    """Return a function that prints what is done, on standard error where the output is JSON; None if quiet."""
    if not options["verbosity"]:
        return None
    stream = command.stderr if options.get("json") else command.stdout
    return lambda line: stream.write(line, command.style.NOTICE)


def say_who_knows(command: BaseCommand) -> None:
    """Print when processes that run see a change of tenants, unless they see it at once."""
    config = conf.require()
    if config.cache_seconds and not config.cache:
        seconds = config.cache_seconds
        text = (
            f"Processes that run see it within {seconds:g} s; at once if PG_TENANTS['CACHE'] names a cache they share."
        )
        command.stdout.write(text, command.style.NOTICE)


def _field(text: str) -> tuple[str, Any]:
    model = tenant_model()
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"--set {text!r} has no '='. Write it as FIELD=VALUE.")
    known = [field.name for field in model._meta.fields if field.name not in ("schema_name", "module", "status")]
    if name not in known:
        raise CommandError(f"--set {text!r}: {model.__name__} has no field {name!r} to set. It has {', '.join(known)}.")
    field = model._meta.get_field(name)
    try:
        return field.attname, field.to_python(value)
    except ValidationError as exc:
        raise CommandError(f"--set {text!r}: {' '.join(exc.messages)}") from exc
