"""Tenants' own domains: allowed hosts, trusted origins, and the way to the primary one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.core.checks.compatibility.django_4_0 import check_csrf_trusted_origins
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory, modify_settings, override_settings
from django.urls import path
from django.views.decorators.csrf import csrf_protect

from example_project.customers.models import Domain
from pg_tenants import current_schema, lookups
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.hosts import TenantHosts
from pg_tenants.middleware import PrimaryDomainMiddleware
from tests.integration.test_middleware import HostClient, run

RAW: dict[str, Any] = {**settings.PG_TENANTS, "PUBLIC_HOSTS": ["www.example.com"], "PUBLIC_URLCONF": None}
TENANTS = "pg_tenants.middleware.TenantMiddleware"
PRIMARY = "pg_tenants.middleware.PrimaryDomainMiddleware"
OUR_CSRF = "pg_tenants.middleware.TenantCsrfMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{current_schema()} {get_token(request)} {request.build_absolute_uri()}")


async def page_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{current_schema()} {request.build_absolute_uri()}")


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    module: Any = ModuleType("hosts_urls")
    module.urlpatterns = [path("", page), path("protected/", csrf_protect(page)), path("async/", page_async)]
    sys.modules["hosts_urls"] = module
    with override_settings(ROOT_URLCONF="hosts_urls", PG_TENANTS=RAW):
        yield
    del sys.modules["hosts_urls"]


def get(host: str, url: str = "/", client: Any = None, **headers: str) -> Any:
    return (client or Client()).get(url, headers={"host": host, **headers})


# -- ALLOWED_HOSTS ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _tenant_hosts() -> Iterator[None]:
    with override_settings(ALLOWED_HOSTS=["www.example.com", TenantHosts()], DEBUG=False):
        yield


@pytest.mark.usefixtures("_tenant_hosts")
def test_tenants_domains_are_allowed(acme: Any, django_assert_num_queries: Any) -> None:
    """From the moment they are saved until they are deleted; all other hosts are refused."""
    for host in ("acme.localhost", "ACME.localhost:8000", "acme.localhost."):
        assert get(host).content.startswith(b"acme "), host
    for host in ("acme.example", "sub.acme.localhost", "localhost", "evil.example", "*", "<the tenants' domains>", ""):
        assert get(host).status_code == 400, host
    domain = Domain.objects.create(domain="acme.example", tenant=acme, is_primary=False)
    assert get("acme.example").content.startswith(b"acme ")
    with django_assert_num_queries(0):
        assert get("acme.example").status_code == 200
    domain.delete()
    assert get("acme.example").status_code == 400
    assert get("www.example.com", "/async/").status_code == 200


@pytest.mark.usefixtures("_tenant_hosts")
def test_a_suspended_tenants_domain_is_allowed(acme: Any) -> None:
    """It is a 503, as with other hosts."""
    acme.suspend()
    assert get("acme.localhost").status_code == 503


@pytest.mark.usefixtures("_tenant_hosts")
def test_allowed_hosts_on_the_event_loop(acme: Any) -> None:
    """An asynchronous view may ask for the host, though the database cannot be asked there."""

    async def main() -> None:
        for _ in range(2):
            for host, status in (("acme.localhost", 200), ("evil.example", 400)):
                with override_settings(PG_TENANTS={**RAW, "CACHE_SECONDS": 0}):
                    response = await HostClient().get("/async/", headers={"host": host})
                assert response.status_code == status
        assert b"http://evil" not in response.content

    run(main())


@pytest.mark.usefixtures("_tenant_hosts")
def test_a_host_that_was_answered_is_not_allowed_by_that(acme: Any) -> None:
    """What was found for a request ends with it."""
    assert get("acme.localhost").status_code == 200
    Domain.objects.all().delete()
    with pytest.raises(DisallowedHost):
        RequestFactory().get("/", headers={"host": "acme.localhost"}).get_host()


def test_django_takes_the_entry(acme: Any) -> None:
    """Its checks, its test runner's copies, and empty settings in debug mode."""
    hosts = ["www.example.com", TenantHosts()]
    with override_settings(ALLOWED_HOSTS=hosts, DEBUG=False, SECURE_SSL_REDIRECT=True):
        assert [m for m in checks.run_checks(include_deployment_checks=True) if m.id == "security.W020"] == []
        with modify_settings(ALLOWED_HOSTS={"append": "testserver"}):
            assert "testserver" in settings.ALLOWED_HOSTS
            assert RequestFactory().get("/").get_host() == "testserver"
            assert RequestFactory().get("/", headers={"host": "acme.localhost"}).get_host() == "acme.localhost"
    assert "acme.localhost" not in hosts
    assert hosts.count(TenantHosts()) == 1


# -- CSRF -------------------------------------------------------------------------------------------------------------


def post(client: Any, url: str = "/", *, secure: bool = False, **headers: str) -> int:
    token = client.cookies["csrftoken"].value
    return int(client.post(url, {"csrfmiddlewaretoken": token}, headers=headers, secure=secure).status_code)


@pytest.fixture(params=["both", "ours", "django"])
def csrf(request: pytest.FixtureRequest, acme: Any, globex: Any) -> Iterator[tuple[str, Any]]:
    """Have a client with a token on a host of acme, which has another domain as well."""
    Domain.objects.create(domain="acme.example", tenant=acme, is_primary=False)
    names = {"both": [OUR_CSRF, CSRF], "ours": [OUR_CSRF], "django": [CSRF]}[request.param]
    with override_settings(MIDDLEWARE=[TENANTS, *names], CSRF_TRUSTED_ORIGINS=["https://pay.example"]):
        client = Client(enforce_csrf_checks=True, headers={"host": "acme.localhost"})
        client.get("/")
        yield request.param, client


@pytest.mark.parametrize("url", ["/", "/protected/"])
def test_trusted_origins(csrf: tuple[str, Any], url: str) -> None:
    """The tenant's own domains, what the settings name, and nothing else: no other tenant's."""
    which, client = csrf
    own = 200 if which != "django" else 403
    assert post(client, url) == 200
    assert post(client, url, origin="http://acme.localhost") == 200
    assert post(client, url, origin="https://pay.example") == 200
    assert post(client, url, origin="https://acme.example") == own
    # TLS that ends at a proxy which does not say so.
    assert post(client, url, origin="https://acme.localhost") == own
    for origin in (
        "https://globex.localhost",
        "http://globex.localhost",
        "http://acme.example",
        "https://acme.example.evil.example",
        "https://evil.example",
        "null",
        "",
    ):
        assert post(client, url, origin=origin) == 403, origin


def test_trusted_referers(csrf: tuple[str, Any]) -> None:
    """The same, where the browser sends no origin."""
    which, client = csrf
    own = 200 if which != "django" else 403
    for referer, status in (
        ("https://acme.localhost/x", 200),
        ("https://pay.example/", 200),
        ("https://acme.example/", own),
        ("https://globex.localhost/", 403),
        ("https://evil.example/", 403),
        ("http://acme.example/", 403),
    ):
        assert post(client, secure=True, referer=referer) == status, referer


def test_another_tenant_trusts_its_own(csrf: tuple[str, Any]) -> None:
    """One process serves both, one after the other."""
    which, client = csrf
    own = 200 if which != "django" else 403
    other = Client(enforce_csrf_checks=True, headers={"host": "globex.localhost"})
    other.get("/")
    for _ in range(2):
        assert post(client, origin="https://acme.example") == own
        assert post(other, origin="https://acme.example") == 403
        assert post(other, origin="https://globex.localhost") == own


def test_a_missing_token_is_refused(csrf: tuple[str, Any]) -> None:
    """Whatever the origin."""
    client = csrf[1]
    assert client.post("/", headers={"origin": "https://acme.example"}).status_code == 403
    assert check_csrf_trusted_origins(None) == []


def test_the_public_site_trusts_no_tenant(acme: Any) -> None:
    """It has no domains of its own in the table."""
    with override_settings(MIDDLEWARE=[TENANTS, OUR_CSRF, CSRF]):
        client = Client(enforce_csrf_checks=True, headers={"host": "www.example.com"})
        client.get("/")
        assert post(client, origin="http://www.example.com") == 200
        assert post(client, origin="https://acme.localhost") == 403


# -- the primary domain -----------------------------------------------------------------------------------------------


@pytest.fixture
def _redirecting(acme: Any) -> Iterator[None]:
    Domain.objects.create(domain="old.example", tenant=acme, is_primary=False)
    with override_settings(MIDDLEWARE=[TENANTS, PRIMARY]):
        yield


@pytest.mark.usefixtures("_redirecting")
def test_redirects_to_the_primary_domain() -> None:
    """Scheme, port, path and query stay; a method that changes something is repeated as it is."""
    for method, status in (("get", 301), ("head", 301), ("post", 308), ("put", 308), ("delete", 308), ("patch", 308)):
        response = getattr(Client(), method)("/a%20b/?q=1&r=%C3%A4", headers={"host": "old.example"})
        assert response.status_code == status, method
        assert response.headers["Location"] == "http://acme.localhost/a%20b/?q=1&r=%C3%A4"
    response = Client().get("/x/", headers={"host": "OLD.example:8443"}, secure=True)
    assert response.headers["Location"] == "https://acme.localhost:8443/x/"
    response = Client().get("//evil.example/", headers={"host": "old.example"})
    assert response.headers["Location"].startswith("http://acme.localhost/")


@pytest.mark.usefixtures("_redirecting")
def test_redirects_on_the_event_loop(django_assert_num_queries: Any) -> None:
    """As elsewhere."""

    async def main(host: str) -> Any:
        return await HostClient().get("/async/", headers={"host": host})

    for _ in range(2):
        response = run(main("old.example"))
        assert (response.status_code, response.headers["Location"]) == (301, "http://acme.localhost/async/")
        assert run(main("acme.localhost")).status_code == 200


@pytest.mark.usefixtures("_redirecting")
def test_no_redirect_without_another_primary_domain(acme: Any) -> None:
    """From a primary one, from the public site, or where there is none: no loop."""
    assert get("acme.localhost").status_code == 200
    assert get("www.example.com", "/async/").status_code == 200
    Domain.objects.create(domain="new.example", tenant=acme, is_primary=True)
    assert get("new.example").status_code == get("acme.localhost").status_code == 200
    Domain.objects.filter(tenant=acme).update(is_primary=False)
    assert get("old.example").status_code == 200
    Domain.objects.filter(domain="old.example").update(is_primary=True)
    assert get("old.example").status_code == 200
    assert get("acme.localhost").headers["Location"] == "http://old.example/"


@pytest.mark.usefixtures("_redirecting")
def test_a_tenant_that_was_not_found_by_its_domain_is_not_redirected(acme: Any) -> None:
    """A path or header names it on a host that is none of its domains."""
    resolvers = ["pg_tenants.resolvers.PathResolver", "pg_tenants.resolvers.DomainResolver"]
    with override_settings(PG_TENANTS={**RAW, "RESOLVERS": resolvers}):
        assert get("other.example", "/t/acme/").status_code == 200
        response = get("old.example", "/t/acme/?q")
        assert response.headers["Location"] == "http://acme.localhost/t/acme/?q"


def test_a_redirect_needs_the_tenant() -> None:
    """The error says where the middleware goes."""
    with pytest.raises(ConfigurationError, match="below TenantMiddleware"):
        PrimaryDomainMiddleware(page)(RequestFactory().get("/"))


def test_the_handler_loads_them_all(acme: Any) -> None:
    """In the order of the documentation, without a warning."""
    lookups.forget()
    with override_settings(MIDDLEWARE=[TENANTS, PRIMARY, OUR_CSRF, CSRF]):
        WSGIHandler()
        assert get("acme.localhost").status_code == 200
