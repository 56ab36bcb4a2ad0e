"""What resolvers take from a request, and what lookups keep; without a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpRequest
from django.test import RequestFactory, override_settings

from pg_tenants import lookups
from pg_tenants.exceptions import ConfigurationError, TenantNotFound
from pg_tenants.resolvers import (
    DomainResolver,
    HeaderResolver,
    PathResolver,
    SessionResolver,
    SubdomainResolver,
    TenantResolver,
    resolvers,
    tenant_by,
)

RAW: dict[str, Any] = settings.PG_TENANTS


def request(path: str = "/", host: str = "acme.example.com", **headers: str) -> HttpRequest:
    return RequestFactory().get(path, headers={"host": host, **{k.replace("_", "-"): v for k, v in headers.items()}})


def with_session(**values: Any) -> HttpRequest:
    made = request()
    made.session = values  # type: ignore[assignment]
    return made


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    lookups.forget()
    yield
    lookups.forget()


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("acme.example.com", "acme"),
        ("ACME.Example.com.:8000", "acme"),
        ("big-co.example.com", "big_co"),
        ("www.acme.example.com", "www.acme"),
        ("example.com", None),
        ("acme.other.com", None),
        ("acmeexample.com", None),
        ("www.example.com", None),
    ],
)
def test_subdomains(host: str, value: str | None) -> None:
    """All that stands before the base; nothing for the base, for other hosts and for public ones."""
    with override_settings(PG_TENANTS={**RAW, "PUBLIC_HOSTS": ["www.example.com"]}):
        assert SubdomainResolver("Example.com").value(request(host=host)) == value


@pytest.mark.parametrize(
    ("path", "value", "script"),
    [
        ("/t/acme/notes/", "acme", "/t/acme"),
        ("/t/acme", "acme", "/t/acme"),
        ("/t/acme//x/", "acme", "/t/acme"),
        ("/t/a%2Fb/", "a", "/t/a"),
        ("/t/", None, None),
        ("/t", None, None),
        ("/t//x/", None, None),
        ("/tt/acme/", None, None),
        ("/x/t/acme/", None, None),
        ("/", None, None),
    ],
)
def test_paths(path: str, value: str | None, script: str | None) -> None:
    """The part behind the prefix."""
    made = request(path)
    assert PathResolver().value(made) == value
    if script:
        assert PathResolver().script(made) == script


def test_headers() -> None:
    """An empty header is a value, a missing one is none."""
    assert HeaderResolver().value(request(x_tenant="acme")) == "acme"
    assert HeaderResolver("X-Customer").value(request(x_customer="acme", x_tenant="globex")) == "acme"
    assert HeaderResolver().value(request()) is None
    assert HeaderResolver().value(request(x_tenant="")) == ""


def test_sessions() -> None:
    """A value of any type; without sessions the error says what is missing."""
    assert SessionResolver().value(with_session(tenant="acme")) == "acme"
    assert SessionResolver("customer").value(with_session(customer=7)) == "7"
    assert SessionResolver().value(with_session()) is None
    with pytest.raises(ConfigurationError, match="SessionMiddleware before TenantMiddleware"):
        SessionResolver().value(request())


def test_what_no_name_can_be_is_not_asked_for() -> None:
    """Without a database: a test that asked it would fail."""
    for value in ("x" * 254, "a\0b", "a\nb", "a\ud800"):
        assert tenant_by("schema_name", value) is None


# -- the setting ------------------------------------------------------------------------------------------------------


def load(*entries: Any) -> tuple[Any, ...]:
    with override_settings(PG_TENANTS={**RAW, "RESOLVERS": list(entries)}):
        return resolvers()


def test_entries_of_resolvers() -> None:
    """A path, a class, a function, or a pair with options."""

    def own(made: HttpRequest) -> Any:
        return None

    found = load(
        "pg_tenants.resolvers.PathResolver",
        ("pg_tenants.resolvers.HeaderResolver", {"header": "X-Customer", "field": "id"}),
        ["pg_tenants.resolvers.SubdomainResolver", {"base": "example.com"}],
        DomainResolver,
        own,
    )
    assert [type(resolve).__name__ for resolve in found[:4]] == [
        "PathResolver",
        "HeaderResolver",
        "SubdomainResolver",
        "DomainResolver",
    ]
    assert (found[1].header, found[1].field, found[2].base) == ("X-Customer", "id", "example.com")
    assert found[4] is own


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("pg_tenants.resolvers.SubdomainResolver", "base"),
        (("pg_tenants.resolvers.SubdomainResolver", {"base": "https://x"}), "https://x"),
        (("pg_tenants.resolvers.HeaderResolver", {"name": "X"}), "name"),
        (("pg_tenants.resolvers.HeaderResolver", {"field": "nothing"}), "unique"),
        (("pg_tenants.resolvers.HeaderResolver", {"field": "name"}), "unique"),
        (("pg_tenants.resolvers.PathResolver", {"prefix": "t"}), "Begin and end it with '/'"),
        (("pg_tenants.resolvers.PathResolver",), "pair"),
        (("pg_tenants.resolvers.PathResolver", "x"), "pair"),
        (("pg_tenants.resolvers.is_public_host", {"host": "x"}), "is no class. Leave its options out"),
        ("pg_tenants.resolvers.Nothing", "cannot be imported"),
        (7, "not callable"),
    ],
)
def test_bad_entries(entry: Any, message: str) -> None:
    """The error names the entry and what is wrong with it."""
    with pytest.raises(ConfigurationError, match=message):
        load(entry)


def test_a_resolver_of_ones_own() -> None:
    """A subclass says how a value is found; one that names nothing ends the search."""

    class ByPort(TenantResolver):
        def value(self, request: HttpRequest) -> str | None:
            return request.get_host().partition(":")[2]

        def find(self, value: str) -> Any:
            return {"8001": "tenant"}.get(value)

    assert ByPort()(request(host="x.example:8001")) == "tenant"
    with pytest.raises(TenantNotFound, match=r"ByPort finds no tenant for '8002'"):
        ByPort()(request(host="x.example:8002"))


# -- what lookups keep ------------------------------------------------------------------------------------------------


class Fetch:
    """Counts how often it is asked."""

    def __init__(self, result: Any = b"row"):
        self.result, self.calls = result, 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.result


def test_a_lookup_is_kept() -> None:
    """By alias, kind and value, whether something was found or not."""
    for result in (b"row", None):
        fetch = Fetch(result)
        for _ in range(3):
            assert lookups.kept("default", "domain", f"{result!r}", fetch) == result
        assert fetch.calls == 1
        lookups.kept("default", "other", f"{result!r}", fetch)
        assert fetch.calls == 2


def test_a_lookup_ends_after_its_time() -> None:
    """CACHE_SECONDS; with 0 nothing is kept."""
    for seconds, calls in ((0, 2), (0.02, 2), (60, 1)):
        fetch = Fetch()
        with override_settings(PG_TENANTS={**RAW, "CACHE_SECONDS": seconds}):
            lookups.forget()
            lookups.kept("default", "domain", "x", fetch)
            time.sleep(0.03)
            lookups.kept("default", "domain", "x", fetch)
        assert fetch.calls == calls, seconds


def test_a_flood_of_unknown_names_is_bounded() -> None:
    """And drives out nothing that is known."""
    known = Fetch()
    lookups.kept("default", "domain", "known", known)
    for number in range(lookups.ABSENT_KEPT + 500):
        lookups.kept("default", "domain", f"unknown-{number}", Fetch(None))
    assert len(lookups._absent) == lookups.ABSENT_KEPT
    lookups.kept("default", "domain", "known", known)
    assert known.calls == 1


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(lookups, "FOUND_KEPT", 3)
    for number in range(5):
        lookups.kept("default", "domain", f"{number}", Fetch())
    assert [key[-1] for key in lookups._found] == ["2", "3", "4"]


def test_a_change_during_a_lookup() -> None:
    """What was read before it is returned, and not kept."""

    def fetch() -> bytes:
        lookups.forget()
        return b"old"

    assert lookups.kept("default", "domain", "x", fetch) == b"old"
    assert lookups.kept("default", "domain", "x", Fetch(b"new")) == b"new"


def test_other_settings_are_another_cache() -> None:
    """What one TENANT_MODEL has found is no tenant of another."""
    lookups.kept("default", "domain", "x", Fetch(b"one"))
    with override_settings(PG_TENANTS={**RAW, "TENANT_MODEL": "other.Tenant"}):
        assert lookups.kept("default", "domain", "x", Fetch(b"two")) == b"two"
