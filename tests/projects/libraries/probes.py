"""What has to hold of well-known libraries in tenants. Run as a program, it prints each probe's name and its error."""

from __future__ import annotations

import html
import os
import re
from typing import Any

import django

from tests.projects.probe import main, probe

django.setup()

from allauth.account.models import EmailAddress  # noqa: E402
from debug_toolbar.models import HistoryEntry  # noqa: E402
from debug_toolbar.toolbar import DebugToolbar  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core import mail  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.core.cache.backends.base import default_key_func  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from pg_tenants import tenant_context  # noqa: E402
from tests.projects.libraries.clients.models import Domain, Tenant  # noqa: E402
from tests.projects.libraries.things.models import Thing  # noqa: E402

NAMES = ("acme", "globex")
OTHER = {"acme": "globex", "globex": "acme"}
mail.outbox = []


def prepare() -> None:
    """Migrate, and make two tenants with a user of one name and a thing each."""
    call_command("migrate_schemas", verbosity=0, run_syncdb=True)
    for name in NAMES:
        tenant = Tenant.objects.create(schema_name=name)
        Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
        with tenant_context(tenant):
            user = User.objects.create_user("ada", email=f"ada@{name}.example", password=name)
            Token.objects.create(user=user)
            Thing.objects.create(name=f"thing of {name}", owner=user)


def inside(name: str) -> Any:
    return tenant_context(Tenant.objects.get(schema_name=name))


def at(name: str, **headers: str) -> Client:
    return Client(headers={"host": f"{name}.localhost", **headers})


def with_token(name: str, host: str = "") -> Client:
    with inside(name):
        key = Token.objects.get(user__username="ada").key
    return at(host or name, authorization=f"Token {key}")


def tables(table: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = %s ORDER BY 1", [table])
        return [schema for (schema,) in cursor.fetchall()]


# -- django-debug-toolbar ---------------------------------------------------------------------------------------------


def request_id(answer: Any) -> str:
    found = re.search(r'data-request-id="([^"]+)"', answer.content.decode())
    assert found, answer.content.decode()[:500]
    return found[1].replace("-", "")


def panel(host: str, request: str, name: str = "SQLPanel") -> str:
    answer = at(host).get("/__debug__/render_panel/", {"request_id": request, "panel_id": name})
    assert answer.status_code == 200
    return html.unescape(re.sub(r"<[^>]+>", "", str(answer.json()["content"])))


@probe
def the_toolbar_shows_the_users_sql_alone() -> None:
    """Two queries are two, without what is sent in front of them; one more finds the tenant."""
    for name in NAMES:
        request = request_id(at(name).get("/names/"))
        text = panel(name, request)
        assert "things_thing" in text
        for ours in ("search_path", "pg_tenants_marker", "LOCK TABLE", "set_config"):
            assert ours not in text, ours
        with inside(name):
            stats = DebugToolbar.fetch(request, "SQLPanel").get_panel_by_id("SQLPanel").get_stats()
        queries = [query["raw_sql"] for query in stats["queries"]]
        assert len(queries) == 2, queries
        assert all(query.startswith("SELECT") for query in queries)


@probe
def the_toolbar_explains_a_query_in_its_tenant() -> None:
    """The panel's own buttons run the statement again, in the tenant of the host."""
    request = request_id(at("acme").get("/names/"))
    content = (
        at("acme").get("/__debug__/render_panel/", {"request_id": request, "panel_id": "SQLPanel"}).json()["content"]
    )
    (signed, *_) = re.findall(r'name="signed" value="([^"]+)"', content)
    data = {"signed": html.unescape(signed)}
    answer = at("acme").post("/__debug__/sql_select/", data)
    assert answer.status_code == 200, answer.content
    assert "thing of acme" in answer.json()["content"]
    answer = at("acme").post("/__debug__/sql_explain/", data)
    assert "Scan" in answer.json()["content"] or "Sort" in answer.json()["content"], answer.json()


@probe
def the_toolbars_history_is_the_tenants_where_it_is_in_the_database() -> None:
    """With the DatabaseStore and the app in the tenant module; the MemoryStore is one for all."""
    shown = {name: request_id(at(name).get("/names/")) for name in NAMES}
    for name in NAMES:
        answer = at(name).get("/__debug__/history_refresh/", {"request_id": shown[name]})
        found = {entry["id"].replace("-", "") for entry in answer.json()["requests"]}
        assert shown[name] in found
        assert (shown[OTHER[name]] in found) == ("Memory" in os.environ.get("TOOLBAR_STORE", "Memory"))
    if "Database" in os.environ.get("TOOLBAR_STORE", ""):
        assert "things_thing" not in panel("globex", shown["acme"])
        for name in NAMES:
            with inside(name):
                assert HistoryEntry.objects.filter(request_id=shown[name]).exists()
                assert not HistoryEntry.objects.filter(request_id=shown[OTHER[name]]).exists()


# -- Django REST framework --------------------------------------------------------------------------------------------


@probe
def a_viewset_reads_and_writes_its_tenant() -> None:
    """Create, list, fetch, change and delete; the other tenant has none of it."""
    browser, other = with_token("acme"), with_token("globex")
    answer = browser.post("/api/things/", {"name": "new"}, content_type="application/json")
    assert answer.status_code == 201, answer.content
    url = f"/api/things/{answer.json()['id']}/"
    assert other.get(url).status_code == 404
    assert browser.get(url).json()["name"] == "new"
    assert browser.patch(url, {"name": "newer"}, content_type="application/json").json()["name"] == "newer"
    assert [thing["name"] for thing in browser.get("/api/things/").json()["results"]] == ["thing of acme", "newer"]
    assert [thing["name"] for thing in other.get("/api/things/").json()["results"]] == ["thing of globex"]
    assert browser.delete(url).status_code == 204
    assert browser.get(url).status_code == 404


@probe
def the_browsable_api_is_the_tenants() -> None:
    """With a session, its page and its form."""
    browser = at("acme")
    with inside("acme"):
        browser.force_login(User.objects.get(username="ada"), "django.contrib.auth.backends.ModelBackend")
    text = browser.get("/api/things/", headers={"accept": "text/html"}).content.decode()
    assert "Thing List" in text
    assert "thing of acme" in text
    assert "thing of globex" not in text
    assert "csrf" in text.lower()
    assert at("globex", cookie=f"sessionid={browser.cookies['sessionid'].value}").get("/api/things/").status_code == 401


@probe
def a_token_is_of_its_tenant() -> None:
    """Another tenant refuses it, and so does one where the same user has another password."""
    assert tables("authtoken_token") == ["acme", "globex"]
    for name in NAMES:
        answer = at(name).post("/token/", {"username": "ada", "password": name})
        with inside(name):
            assert answer.json()["token"] == Token.objects.get().key
        assert at(name).post("/token/", {"username": "ada", "password": OTHER[name]}).status_code == 400
        assert with_token(name).get("/api/things/").status_code == 200
        refused = with_token(name, OTHER[name]).get("/api/things/")
        assert (refused.status_code, refused.json()["detail"]) == (401, "Invalid token.")


@probe
def pages_are_of_the_tenant() -> None:
    """Their number, and their links to its host."""
    with inside("acme"):
        Thing.objects.bulk_create(Thing(name=f"page {number}") for number in range(4))
    first = with_token("acme").get("/api/things/").json()
    assert first["count"] == 5
    assert first["next"] == "http://acme.localhost/api/things/?page=2"
    assert len(with_token("acme").get(first["next"]).json()["results"]) == 2
    assert with_token("globex").get("/api/things/").json()["count"] == 1
    with inside("acme"):
        Thing.objects.filter(name__startswith="page").delete()


@probe
def what_is_unique_is_unique_in_the_tenant() -> None:
    """The validator asks the tenant's table."""
    answer = with_token("acme").post("/api/things/", {"name": "thing of acme"}, content_type="application/json")
    assert (answer.status_code, list(answer.json())) == (400, ["name"])
    answer = with_token("globex").post("/api/things/", {"name": "thing of acme"}, content_type="application/json")
    assert answer.status_code == 201
    with inside("globex"):
        Thing.objects.get(name="thing of acme").delete()


@probe
def throttles_count_by_the_key_of_the_cache() -> None:
    """With a key for each tenant, users of one id have a rate each; with Django's own keys they share one."""

    def ask(*names: str) -> list[int]:
        cache.clear()
        return [with_token(name).get("/throttled/").status_code for name in names]

    assert ask("acme", "acme", "acme", "globex") == [200, 200, 429, 200]
    own = cache.key_func
    cache.key_func = default_key_func
    try:
        assert ask("acme", "acme", "acme", "globex") == [200, 200, 429, 429]
    finally:
        cache.clear()
        cache.key_func = own


# -- django-allauth ---------------------------------------------------------------------------------------------------

EMAIL = "same@example.com"


def form(browser: Client, path: str, **data: str) -> Any:
    return browser.post(path, data)


def link(pattern: str) -> str:
    """Return the address in the last mail, and take the mail."""
    body = mail.outbox.pop().body
    found = re.search(pattern, str(body))
    assert found, body
    return found[0]


@probe
def people_sign_up_at_two_tenants_by_one_address() -> None:
    """Confirm it by a link to the tenant's own host, and log in there."""
    links = {}
    for name in NAMES:
        browser = at(name)
        data = {"email": EMAIL, "password1": f"long-{name}-1", "password2": f"long-{name}-1"}
        answer = form(browser, "/accounts/signup/", **data)
        assert answer.status_code == 302, answer.content.decode()
        assert mail.outbox[-1].to == [EMAIL]
        links[name] = link(r"http://\S+/accounts/confirm-email/\S+/")
        assert links[name].startswith(f"http://{name}.localhost/")
        with inside(name):
            assert not EmailAddress.objects.get(email=EMAIL).verified
        # Before it is confirmed, nobody gets in.
        login = form(at(name), "/accounts/login/", login=EMAIL, password=f"long-{name}-1")
        assert "confirm-email" in login.headers["Location"]
        mail.outbox.clear()
    for name in NAMES:
        assert at(name).post(links[name]).status_code == 302
        with inside(name):
            assert EmailAddress.objects.get(email=EMAIL).verified
            assert User.objects.filter(email=EMAIL).count() == 1
        browser = at(name)
        wrong = form(browser, "/accounts/login/", login=EMAIL, password=f"long-{OTHER[name]}-1")
        assert wrong.status_code == 200
        right = form(browser, "/accounts/login/", login=EMAIL, password=f"long-{name}-1")
        assert right.headers["Location"] == "/api/things/"
        assert browser.get("/api/things/").status_code == 200
        cookie = f"sessionid={browser.cookies['sessionid'].value}"
        assert at(OTHER[name], cookie=cookie).get("/api/things/").status_code == 401


@probe
def a_password_is_reset_at_one_tenant() -> None:
    """By a link to its host; the other tenant's user of the same address keeps the old one."""
    cache.clear()
    browser = at("acme")
    assert form(browser, "/accounts/password/reset/", email=EMAIL).status_code == 302
    address = link(r"http://\S+/accounts/password/reset/key/\S+/")
    assert address.startswith("http://acme.localhost/")
    path = browser.get(address, follow=True).redirect_chain[-1][0]
    answer = form(browser, path, password1="quite-new-9", password2="quite-new-9")
    assert answer.status_code == 302, answer.content.decode()
    for name, password in (("acme", "quite-new-9"), ("globex", "long-globex-1")):
        with inside(name):
            assert User.objects.get(email=EMAIL).check_password(password)


@probe
def a_link_is_refused_at_another_tenant() -> None:
    """One that resets a password: the hash of the user's password is part of its signature."""
    cache.clear()
    form(at("acme"), "/accounts/password/reset/", email=EMAIL)
    address = link(r"http://\S+/accounts/password/reset/key/\S+/").replace("acme.", "globex.")
    text = at("globex").get(address, follow=True).content.decode()
    assert "password reset link was invalid" in text


@probe
def allauths_tables_are_each_tenants() -> None:
    """And none is in public."""
    for table in ("account_emailaddress", "socialaccount_socialaccount", "auth_user"):
        assert tables(table) == ["acme", "globex"], table


if __name__ == "__main__":
    main(prepare)
