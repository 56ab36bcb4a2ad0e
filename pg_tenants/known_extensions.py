"""What is known of PostgreSQL's extensions without asking a server: names, which to preload, where to get them."""

from __future__ import annotations

import re

__all__ = ["EXTENSION_NAME", "ONLY_LIBRARIES", "PRELOADED", "remedy"]

EXTENSION_NAME = re.compile(r"[a-z0-9_-]+")
"""What an extension may be called: lower-case letters, digits, ``_`` and ``-``."""

PRELOADED = frozenset({"auto_explain", "pg_cron", "pg_stat_statements", "pgaudit", "timescaledb"})
"""Extensions that work only if the server loads them at its start. Source: the manual of each."""

ONLY_LIBRARIES = frozenset({"auto_explain"})
"""Libraries that are preloaded and make no extension."""

# Debian's and PGDG's names of packages end so, after postgresql-18-.
_PACKAGES = {
    "age": "age",
    "hll": "hll",
    "hypopg": "hypopg",
    "ip4r": "ip4r",
    "orafce": "orafce",
    "pg_cron": "cron",
    "pg_partman": "partman",
    "pg_repack": "repack",
    "pgaudit": "pgaudit",
    "pgrouting": "pgrouting",
    "pgtap": "pgtap",
    "postgis": "postgis-3",
    "postgis_raster": "postgis-3",
    "postgis_topology": "postgis-3",
    "rum": "rum",
    "vector": "pgvector",
}
_IMAGES = {
    "age": "apache/age",
    "citus": "citusdata/citus",
    "pgrouting": "pgrouting/pgrouting",
    "postgis": "postgis/postgis",
    "postgis_raster": "postgis/postgis",
    "postgis_topology": "postgis/postgis",
    "timescaledb": "timescale/timescaledb:latest-pg{major}",
    "vector": "pgvector/pgvector:pg{major}",
}
# Those of PostgreSQL's own source, which a server may lack that was built without a library or its contrib package.
_CONTRIB = frozenset(
    """amcheck bloom bool_plperl btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw
    fuzzystrmatch hstore intarray isn lo ltree pageinspect pg_buffercache pg_freespacemap pg_prewarm pg_stat_statements
    pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple postgres_fdw seg sslinfo tablefunc
    tsm_system_rows tsm_system_time unaccent uuid-ossp xml2""".split()
)


def remedy(name: str, major: str) -> str:
    """Return how a server gets an extension that it does not have: which package or image has it, as far as known.

    Args:
        name: the extension.
        major: the server's major version, such as "18".
    """
    if name in _CONTRIB:
        package, image = "postgresql-contrib", f"postgres:{major}"
    else:
        package = f"postgresql-{major}-{_PACKAGES[name]}" if name in _PACKAGES else ""
        image = _IMAGES.get(name, "").format(major=major)
    ways = []
    if package:
        ways.append(f"install the package {package} on the server")
    if image:
        ways.append(f"use a server image that has it, such as {image}")
    if not ways:
        ways.append("install the package that has it on the server, or use a server image that does")
    words = ", or ".join(ways)
    return words[0].upper() + words[1:]
