"""The PostGIS backend carries tenants as the other one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from pg_tenants import tenant_context
from pg_tenants.backends.base import TenantDatabaseWrapperMixin

ENGINE = "pg_tenants.backends.postgis"


@pytest.fixture
def gis(make_alias: Any, raw: Any) -> Iterator[Any]:
    """Return a connection of the PostGIS backend, on a server that has the extension."""
    if not raw.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'").fetchone():
        pytest.skip(
            "this PostgreSQL has no PostGIS (Debian's package postgresql-15-postgis-3 has it for the one of Debian)"
        )
    try:
        alias = make_alias("gis", engine=ENGINE)
    except ImproperlyConfigured as exc:
        pytest.skip(f"GDAL is not installed (Debian's package libgdal32): {exc}")
    yield alias
    alias.close()
    raw.execute("DROP EXTENSION IF EXISTS postgis CASCADE")


def test_geometries_are_each_tenants_own(gis: Any, acme: Any, globex: Any, raw: Any) -> None:
    """The extension goes to its own schema, and tenants' tables, points and introspection stay apart."""
    from django.contrib.gis.geos import Point

    assert isinstance(gis, TenantDatabaseWrapperMixin)
    with tenant_context(acme):
        # As migrate does, and with a tenant active: the extension must not land there.
        gis.prepare_database()
    where = raw.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'postgis'"
    ).fetchone()
    assert where == ("public",)
    for number, tenant in enumerate((acme, globex)):
        with tenant_context(tenant), gis.cursor() as cursor:
            cursor.execute("CREATE TABLE place (name text, spot geometry(Point, 4326))")
            spot = gis.ops.Adapter(Point(number, 2.5, srid=4326))
            cursor.execute("INSERT INTO place VALUES (%s, %s)", [tenant.schema_name, spot])
    for number, tenant in enumerate((acme, globex)):
        with tenant_context(tenant), gis.cursor() as cursor:
            cursor.execute(
                "SELECT name, ST_X(spot) FROM place WHERE ST_DWithin(spot, %s, 0.1)",
                [gis.ops.Adapter(Point(number, 2.5, srid=4326))],
            )
            assert cursor.fetchall() == [(tenant.schema_name, float(number))]
            assert "place" in gis.introspection.table_names(cursor)
            description = {field.name: field for field in gis.introspection.get_table_description(cursor, "place")}
            assert gis.introspection.get_geometry_type("place", description["spot"]) == ("PointField", {})
    with gis.cursor() as cursor:
        assert "place" not in gis.introspection.table_names(cursor)
    assert "place" not in connection.introspection.table_names()
