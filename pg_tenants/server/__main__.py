"""Run the server without a project: ``python -m pg_tenants.server up``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pg_tenants.server import cli
from pg_tenants.server.exceptions import ServerError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m pg_tenants.server", description=cli.DESCRIPTION)
    cli.add_arguments(parser)
    try:
        return cli.run(parser.parse_args(arguments), None, _write)
    except ServerError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
