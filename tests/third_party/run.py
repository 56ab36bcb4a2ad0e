"""The test suites of Django applications by others, unmodified: on plain Django, and inside a tenant with our plugin.

``python tests/third_party/run.py SERVER_URL [name…]`` downloads each application's source from the
package index into a temporary folder, runs its suite both ways, prints the counts, and ends with 1 where they differ.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIRED = "required"
COMMON = """
from pg_tenants.conf import database
import os
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
if os.environ["INSIDE"]:
    DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
    PG_TENANTS = {
        "TENANT_MODEL": "customers.Tenant",
        "DOMAIN_MODEL": "customers.Domain",
        "MODULES": {
            "shared": {"schema": "public", "apps": ["example_project.customers"]},
            "tenant": {"apps": list(INSTALLED_APPS), "extensions": EXTENSIONS},
        },
    }
    INSTALLED_APPS = type(INSTALLED_APPS)(["pg_tenants", "example_project.customers", *INSTALLED_APPS])
else:
    DATABASES["default"]["ENGINE"] = "django.db.backends.postgresql"
"""


@dataclass(frozen=True)
class Suite:
    """An application's test suite.

    Attributes:
        settings: what the project's settings are, besides those that all have.
        tests: where the tests are, in the source.
        environment: variables that the suite wants.
        requires: what else it wants from the package index.
    """

    settings: str
    tests: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    requires: tuple[str, ...] = ()


SUITES = {
    "django-filter==26.2": Suite(
        "from tests.settings import *\nEXTENSIONS = []\n",
        ("tests",),
        requires=("pytz",),
    ),
    "django-treebeard==7.0.3": Suite(
        "from tests.settings import *\nEXTENSIONS = ['ltree']\n",
        ("tests",),
        (("DATABASE_ENGINE", "psql"),),
    ),
    "django-guardian==3.5.2": Suite(
        "from guardian.testapp.testsettings import *\nEXTENSIONS = []\n",
        ("guardian/testapp/tests",),
    ),
}


def source(requirement: str, suite: Suite, folder: Path) -> Path:
    """Download an application's source into a folder, unless it is there, and return where it is."""
    found = folder / requirement.replace("-", "_").replace("==", "-")
    if found.is_dir():
        return found
    pip = [sys.executable, "-m", "pip"]
    options = ["-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, "download", *options, requirement], check=True)
    (archive,) = folder.glob(f"{found.name}*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    if suite.requires:
        subprocess.run([*pip, "install", "-q", "--target", str(found / REQUIRED), *suite.requires], check=True)
    # Some ask for their own version, as if they were installed.
    about = found / f"{found.name}.dist-info"
    about.mkdir()
    (about / "METADATA").write_bytes((found / "PKG-INFO").read_bytes())
    return found


def run(suite: Suite, where: Path, url: str, *, inside: bool, options: argparse.Namespace) -> dict[str, int]:
    """Run a suite, and return how many tests passed, failed, were skipped and so on."""
    (where / "third_party_settings.py").write_text(suite.settings + COMMON)
    environment = {
        **os.environ,
        **dict(suite.environment),
        "DATABASE_URL": url,
        "INSIDE": "1" if inside else "",
        "PYTHONPATH": os.pathsep.join(map(str, [where, where / REQUIRED, ROOT, Path(__file__).parent])),
    }
    # Threads of a suite that knows nothing of tenants have to begin in the test's.
    threads = ["-o", "usefixtures=tenant_threads"] if options.threads else []
    plugins = ["-p", "inside_tenant", *threads] if inside else ["-p", "no:pg_tenants.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--ds=third_party_settings", "-p", "no:cacheprovider", *plugins]
        + (["-n", str(options.workers)] if options.workers else [])
        + list(options.tests or suite.tests),
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().rpartition("\n")[2]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error|xfailed)", last)}
    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    print(f"  {'inside a tenant' if inside else 'plain Django':16} {last}")
    for line in failed[:20]:
        print(f"    {line}")
    if not counts:
        print(done.stdout[-3000:], done.stderr[-3000:])
    return counts


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="A server: postgres://user@host:port/postgres")
    parser.add_argument("names", nargs="*", help="Applications; all if none is named.")
    parser.add_argument("--sources", type=Path, help="A folder to keep sources in; a temporary one if not given.")
    parser.add_argument("--tests", action="append", help="These tests alone; repeatable.")
    parser.add_argument(
        "--no-threads",
        dest="threads",
        action="store_false",
        help="Let threads begin without a tenant, as they do by themselves.",
    )
    parser.add_argument("--workers", type=int, default=0, help="Processes of pytest-xdist.")
    options = parser.parse_args()
    equal = True
    for requirement, suite in SUITES.items():
        name = requirement.partition("=")[0]
        if options.names and name not in options.names:
            continue
        print(requirement)
        with tempfile.TemporaryDirectory() as folder:
            where = source(requirement, suite, options.sources or Path(folder))
            url = options.url.rpartition("/")[0] + f"/third_{name.replace('-', '_')}"
            plain = run(suite, where, url, inside=False, options=options)
            ours = run(suite, where, f"{url}_in", inside=True, options=options)
        equal = equal and bool(plain) and plain == ours
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
