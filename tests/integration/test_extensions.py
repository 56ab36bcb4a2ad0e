"""PostgreSQL extensions: once per database, in their own schema, before any table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import override_settings

from example_project.customers.models import Tenant
from pg_tenants import checks, extensions, tenant_context
from pg_tenants.exceptions import ExtensionUnavailable

RAW: dict[str, Any] = settings.PG_TENANTS
USED = ["citext", "hstore", "btree_gin", "unaccent", "cube", "earthdistance"]


@pytest.fixture(autouse=True)
def _nothing_left(raw: Any) -> Iterator[None]:
    yield
    for name in USED:
        raw.execute(f"DROP EXTENSION IF EXISTS {name} CASCADE")
    raw.execute("DROP SCHEMA IF EXISTS ext_here CASCADE")


def where(raw: Any, name: str) -> str | None:
    row = raw.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = %s", [name]).fetchone()
    return row[0] if row else None


def with_extensions(*names: str, **changes: Any) -> Any:
    modules = RAW["MODULES"]
    tenant = {**modules["tenant"], "extensions": ["pg_trgm", *names]}
    return override_settings(PG_TENANTS={**RAW, "MODULES": {**modules, "tenant": tenant}, **changes})


def test_missing_and_install(open_db: None, raw: Any) -> None:
    """What is there is left alone, and what was done is told."""
    assert extensions.missing(["citext", "pg_trgm", "citext"]) == ["citext"]
    assert extensions.missing([]) == []
    assert extensions.install(["citext", "pg_trgm"]) == ["citext"]
    assert extensions.install(["citext", "pg_trgm"]) == []
    assert where(raw, "citext") == "public"


def test_never_in_a_tenants_schema(acme: Any, raw: Any) -> None:
    """Even if a tenant is active; dropping that one takes nothing from the others."""
    with tenant_context(acme):
        assert extensions.install(["citext"]) == ["citext"]
        connection.cursor().execute("CREATE TABLE words (word citext)")
    assert where(raw, "citext") == "public"
    Tenant.objects.get(pk=acme.pk).delete()
    assert where(raw, "citext") == "public"


def test_in_a_schema_of_their_own(acme: Any, raw: Any) -> None:
    """It is made where it is missing, and is on every path."""
    with with_extensions(EXTENSIONS_SCHEMA="ext_here"):
        assert extensions.install(["citext"], schema="ext_here") == ["citext"]
        assert where(raw, "citext") == "ext_here"
        with tenant_context(acme), connection.cursor() as cursor:
            cursor.execute("SELECT 'A'::citext = 'a'")
            assert cursor.fetchone() == (True,)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'A'::citext = 'a'")


def test_an_extension_brings_those_that_it_needs(open_db: None, raw: Any) -> None:
    """Into the same schema."""
    assert extensions.install(["earthdistance"], schema="ext_here") == ["earthdistance"]
    assert where(raw, "cube") == "ext_here"


def test_types_are_known_to_the_connection_at_once(open_db: None) -> None:
    """As after Django's own operation."""
    extensions.install(["hstore"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'a=>1'::hstore")
        assert cursor.fetchone() == ({"a": "1"},)


def test_an_extension_that_the_server_has_not(open_db: None, raw: Any) -> None:
    """The error names it, its cause, and what to do; the check says it before."""
    with pytest.raises(ExtensionUnavailable, match=r"'nothing_like_it'.*pg_available_extensions.*Install the package"):
        extensions.install(["nothing_like_it"])
    with with_extensions("nothing_like_it"):
        (message,) = checks.check_databases(["default"])
    assert message.id == "pg_tenants.E023"
    assert "'nothing_like_it'" in message.msg
    assert "'default'" in message.msg
    assert "Install the package" in str(message.hint)


@pytest.mark.parametrize(
    ("name", "package", "image"),
    [
        ("postgis", "postgresql-{}-postgis-3", "postgis/postgis"),
        ("timescaledb", "", "timescale/timescaledb:latest-pg{}"),
    ],
)
def test_where_an_extension_is_to_be_had(open_db: None, raw: Any, name: str, package: str, image: str) -> None:
    """The error and the check name the package and the image, and say so before they speak of preloading."""
    if raw.execute("SELECT FROM pg_available_extensions WHERE name = %s", [name]).fetchone() is not None:
        pytest.skip(f"{name} is installed here")
    major = raw.info.server_version // 10000
    with pytest.raises(ExtensionUnavailable) as caught:
        extensions.install([name])
    with with_extensions(name):
        (message,) = checks.check_databases(["default"])
    assert message.id == "pg_tenants.E023"
    for text in (str(caught.value), str(message.hint)):
        assert package.format(major) in text
        assert image.format(major) in text


@pytest.mark.parametrize("name", ["pg_stat_statements", "auto_explain"])
def test_an_extension_that_the_server_has_to_preload(open_db: None, raw: Any, name: str) -> None:
    """The error names the setting, its value and where to write it; the check says it before."""
    with pytest.raises(ExtensionUnavailable) as caught:
        extensions.install([name])
    for part in (repr(name), "shared_preload_libraries is 'empty'", "postgresql.conf", "restart"):
        assert part in str(caught.value)
    assert where(raw, name) is None
    with with_extensions(name):
        (message,) = checks.check_databases(["default"])
    assert message.id == "pg_tenants.E025"
    assert repr(name) in message.msg
    assert f"Add {name} to shared_preload_libraries" in str(message.hint)


@pytest.mark.parametrize("name", ["Hstore", "a b", 'hst"ore', "", "hstore; DROP TABLE x"])
def test_what_is_no_name_is_refused(open_db: None, name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ExtensionUnavailable, match="is no extension's name"):
        extensions.install([name])


def test_the_right_ones_pass_the_check(open_db: None) -> None:
    """Available is enough; migrating installs them."""
    with with_extensions("citext", "hstore"):
        assert checks.check_databases(["default"]) == []


def test_an_extension_that_lies_elsewhere_stays_there(open_db: None, raw: Any) -> None:
    """It is neither moved nor made again."""
    raw.execute("CREATE SCHEMA ext_here; CREATE EXTENSION citext SCHEMA ext_here")
    assert extensions.install(["citext"]) == []
    assert where(raw, "citext") == "ext_here"


def test_nothing_is_half_installed(open_db: None, raw: Any) -> None:
    """Those before the one that cannot be had are not installed, so that the next run tells the same."""
    with pytest.raises(ExtensionUnavailable):
        extensions.install(["pg_stat_statements", "citext"])
    assert where(raw, "citext") is None
    assert connections["default"].get_autocommit()
