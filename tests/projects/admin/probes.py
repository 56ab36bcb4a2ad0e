"""What has to hold of the admin. Run as a program, it prints each probe's name and its error."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import django

from tests.projects.probe import main, probe

django.setup()

from django.contrib.admin.models import LogEntry  # noqa: E402
from django.contrib.auth.models import Permission, User  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from example_project.customers.admin import CompanyAdmin, public_site  # noqa: E402
from example_project.customers.models import Domain, Tenant  # noqa: E402
from example_project.notes.models import Note  # noqa: E402
from pg_tenants import schema_context, schemas, tenant_context  # noqa: E402

LIST, ADD = "/admin/customers/tenant/", "/admin/customers/tenant/add/"


def prepare() -> None:
    """Migrate, and make users of three kinds."""
    call_command("migrate_schemas", verbosity=0)
    with schema_context("public"):
        User.objects.create_superuser("root", password="root")
        User.objects.create_user("reader", password="reader", is_staff=True)
        User.objects.get(username="reader").user_permissions.set(
            Permission.objects.filter(codename__in=["view_tenant", "view_domain"])
        )
    for name in ("acme", "globex"):
        tenant = make(name)
        with tenant_context(tenant):
            user = User.objects.create_superuser("admin", password=name)
            User.objects.create_user(f"user-of-{name}")
            Note.objects.create(title=f"note of {name}", body="x", author=user)


def make(name: str) -> Any:
    tenant = Tenant.objects.create(schema_name=name, name=name.title())
    Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
    return tenant


def client(user: str = "root", host: str = "localhost", password: str = "") -> Client:
    """Return a client that has signed in by the form."""
    found = Client(headers={"host": host})
    data = {"username": user, "password": password or user, "next": "/admin/"}
    assert found.post("/admin/login/", data).status_code == 302, f"{user} cannot sign in at {host}"
    return found


def fields(name: str, *domains: str, primary: int | None = 0, **more: str) -> dict[str, str]:
    """Return the form of a new tenant, filled in."""
    data = {"name": name.title(), "schema_name": name, "slogan": "", "city": "", "colour": "#112233", "plan": "team"}
    data |= {"domains-TOTAL_FORMS": str(len(domains)), "domains-INITIAL_FORMS": "0"}
    data |= {f"domains-{index}-domain": domain for index, domain in enumerate(domains)}
    if primary is not None and domains:
        data[f"domains-{primary}-is_primary"] = "on"
    return data | more


def errors(answer: Any) -> str:
    assert answer.status_code == 200, answer.status_code
    text = re.findall(r'<ul class="errorlist[^>]*>(.*?)</ul>', answer.content.decode(), re.DOTALL)
    return html.unescape(" ".join(text))


def act(browser: Client, action: str, *tenants: Any, **more: str) -> Any:
    data = {"action": action, "_selected_action": [tenant.pk for tenant in tenants], **more}
    return browser.post(LIST, data, follow=True)


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name == "provisioning":
            thread.join(30)


def messages(answer: Any) -> str:
    found = re.search(r'<ul class="messagelist">(.*?)</ul>', answer.content.decode(), re.DOTALL)
    return html.unescape(found[1]) if found else ""


@contextmanager
def failing() -> Iterator[None]:
    """Let migrating fail."""
    with mock.patch("pg_tenants.provisioning.ready.make", side_effect=RuntimeError("no space left")):
        yield


def history(tenant_pk: Any) -> list[str]:
    with schema_context("public"):
        of_tenants = ContentType.objects.get(app_label="customers", model="tenant")
        entries = LogEntry.objects.filter(content_type=of_tenants, object_id=str(tenant_pk)).order_by("pk")
        return [entry.get_change_message() for entry in entries]


@probe
def a_tenant_is_made_outside_the_request() -> None:
    """The row is there at once with the status provisioning; then it is active, with its domain and its log entry."""
    release = threading.Event()
    original = Tenant.provision

    def slow(self: Any, **kwargs: Any) -> Any:
        assert not connection.in_atomic_block
        assert release.wait(30)
        return original(self, **kwargs)

    browser = client()
    with mock.patch.object(Tenant, "provision", slow):
        answer = browser.post(ADD, fields("initech", "Initech.Localhost."), follow=True)
        assert answer.redirect_chain[-1][0] == LIST, errors(answer)
        assert "initech" in messages(answer)
        tenant = Tenant.objects.get(schema_name="initech")
        assert tenant.status == "provisioning"
        assert not schemas.exists("initech")
        assert Client(headers={"host": "initech.localhost"}).get("/").status_code == 503
        assert 'data-status="provisioning"' in browser.get(LIST).content.decode()
        release.set()
        wait()
    tenant.refresh_from_db()
    assert tenant.status == "active"
    assert list(tenant.domains.values_list("domain", "is_primary")) == [("initech.localhost", True)]
    assert Client(headers={"host": "initech.localhost"}).get("/").status_code == 200
    assert len(history(tenant.pk)) == 1


@probe
def a_failure_is_shown_and_tried_again() -> None:
    """The status is failed, the reason is in the history, and the action makes the schema."""
    browser = client()
    with failing():
        browser.post(ADD, fields("umbrella", "umbrella.localhost"))
        wait()
    tenant = Tenant.objects.get(schema_name="umbrella")
    assert tenant.status == "failed"
    assert not schemas.exists("umbrella")
    assert "no space left" in history(tenant.pk)[-1]
    assert "no space left" in browser.get(f"{LIST}{tenant.pk}/history/").content.decode()
    assert Client(headers={"host": "umbrella.localhost"}).get("/").status_code == 503
    answer = act(browser, "suspend", tenant)
    assert "failed" in messages(answer)
    acme = Tenant.objects.get(schema_name="acme")
    act(browser, "provision", tenant, acme)
    wait()
    tenant.refresh_from_db()
    assert tenant.status == "active"
    assert "None of them" in messages(act(browser, "provision", tenant, acme))
    assert history(acme.pk) == []


@probe
def mistakes_are_errors_of_the_form() -> None:
    """Of names, of schemas that are there, of domains; nothing is made."""
    browser = client()
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA strangers")
    for name, part in (
        ("Acme", "'Acme' cannot be"),
        ("pg_x", "pg_"),
        ("public", "public"),
        ("select", "select"),
        ("billing", "billing"),
        ("x" * 64, "63"),
        ("acme", "already exists"),
        ("strangers", "'strangers' already"),
        ("", "required"),
    ):
        assert part in errors(browser.post(ADD, fields(name, "new.localhost"))), name
    for domains, primary, part in (
        (["http://x.localhost/"], 0, "is no host"),
        (["acme.localhost"], 0, "already exists"),
        (["ACME.localhost."], 0, "already exists"),
        (["a.localhost", "A.localhost"], 0, "given twice"),
        (["a.localhost", "b.localhost"], None, "No domain is marked"),
    ):
        assert part in errors(browser.post(ADD, fields("newco", *domains, primary=primary))), domains
    two = fields("newco", "a.localhost", "b.localhost") | {"domains-1-is_primary": "on"}
    assert "2 domains are" in errors(browser.post(ADD, two))
    wait()
    assert not Tenant.objects.filter(schema_name="newco").exists()
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA strangers")


@probe
def the_module_is_chosen_where_there_are_several() -> None:
    """From the tenant modules; where there is one, it is not asked for."""
    from django.conf import settings
    from django.test import override_settings

    model_admin, request = CompanyAdmin(Tenant, public_site), mock.Mock()
    assert "module" not in model_admin.get_form(request).base_fields
    modules = {**settings.PG_TENANTS["MODULES"], "shop": {"apps": ["example_project.notes"]}}
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        field: Any = model_admin.get_form(request).base_fields["module"]
        assert [value for value, _ in field.choices] == ["tenant", "shop"]
        assert "module" not in model_admin.get_form(request, Tenant.objects.get(schema_name="acme")).base_fields


@probe
def a_tenant_that_is_there_keeps_its_schema() -> None:
    """Its name and status are text on the page; what a forged form says about them is not looked at."""
    acme = Tenant.objects.get(schema_name="acme")
    browser = client()
    page = browser.get(f"{LIST}{acme.pk}/change/").content.decode()
    assert 'name="schema_name"' not in page
    assert 'name="status"' not in page
    domain = acme.domains.get()
    data = fields("other", "acme.localhost", "www.acme.localhost", primary=1, status="suspended", city="Łódź")
    data |= {"domains-INITIAL_FORMS": "1", "domains-0-id": str(domain.pk), "domains-0-tenant": str(acme.pk)}
    answer = browser.post(f"{LIST}{acme.pk}/change/", data)
    assert answer.status_code == 302, errors(answer)
    acme.refresh_from_db()
    assert (acme.schema_name, acme.status, acme.city) == ("acme", "active", "Łódź")
    assert acme.domains.get(is_primary=True).domain == "www.acme.localhost"
    assert "www.acme.localhost" in browser.get(LIST).content.decode()


@probe
def tenants_are_suspended_and_resumed() -> None:
    """Their sites answer 503 and 200; who did it is in the history."""
    globex = Tenant.objects.get(schema_name="globex")
    browser, visitor = client(), Client(headers={"host": "globex.localhost"})
    assert "Suspended 1 tenant." in messages(act(browser, "suspend", globex))
    assert visitor.get("/").status_code == 503
    assert 'data-status="suspended"' in browser.get(f"{LIST}?status__exact=suspended").content.decode()
    assert "Nothing had to be changed" in messages(act(browser, "suspend", globex))
    assert "Resumed 1 tenant." in messages(act(browser, "resume", globex))
    assert visitor.get("/").status_code == 200
    assert history(globex.pk) == ["Suspended.", "Resumed."]


@probe
def the_list_is_searched_and_filtered() -> None:
    """By name, schema and domain; the number of queries does not grow with the tenants."""
    browser = client()
    for query in ("Globex", "globex.local", "GLOB"):
        text = browser.get(LIST, {"q": query}).content.decode()
        assert "globex.localhost" in text
        assert "acme.localhost" not in text
    with CaptureQueriesContext(connection) as few:
        browser.get(LIST, {"q": "globex"})
    with CaptureQueriesContext(connection) as many:
        browser.get(LIST)
    assert len(many) <= len(few)


@probe
def who_may_only_look_is_offered_nothing_else() -> None:
    """No action, no form, and a forged request is refused."""
    browser = client("reader")
    globex = Tenant.objects.get(schema_name="globex")
    text = browser.get(LIST).content.decode()
    assert "globex" in text
    for action in ("suspend", "resume", "provision", "delete_selected"):
        assert f'value="{action}"' not in text
        act(browser, action, globex, post="yes")
    assert browser.get(ADD).status_code == 403
    assert browser.post(f"{LIST}{globex.pk}/delete/", {"post": "yes"}).status_code == 403
    assert browser.post(f"{LIST}{globex.pk}/change/", fields("globex")).status_code == 403
    globex.refresh_from_db()
    assert globex.status == "active"


@probe
def deleting_says_that_the_schema_goes() -> None:
    """Django's confirmation names it; then row, domains and schema are gone, for one and for many."""
    browser = client()
    one, two, three = (make(name) for name in ("one_gone", "two_gone", "three_gone"))
    text = browser.get(f"{LIST}{one.pk}/delete/").content.decode()
    assert "Schema: one_gone, with all its tables" in text
    assert "one_gone.localhost" in text
    assert schemas.exists("one_gone")
    assert browser.post(f"{LIST}{one.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not schemas.exists("one_gone")
    text = act(browser, "delete_selected", two, three).content.decode()
    assert "Schema: two_gone" in text
    assert "Schema: three_gone" in text
    assert schemas.exists("two_gone")
    answer = act(browser, "delete_selected", two, three, post="yes")
    assert "Successfully deleted 2" in messages(answer)
    assert not schemas.exists("two_gone")
    assert not schemas.exists("three_gone")
    assert not Tenant.objects.filter(schema_name__endswith="_gone").exists()
    assert not Domain.objects.filter(domain__endswith="_gone.localhost").exists()
    with schema_context("public"):
        assert LogEntry.objects.filter(action_flag=3).count() == 3


@probe
def each_admin_has_its_own_users() -> None:
    """Nobody signs in at another tenant's or at the public one, nor with a cookie from there."""
    for user, password, wrong in (
        ("admin", "acme", ("localhost", "globex.localhost")),
        ("admin", "globex", ("localhost", "acme.localhost")),
        ("root", "root", ("acme.localhost", "globex.localhost")),
    ):
        for host in wrong:
            stranger = Client(headers={"host": host})
            answer = stranger.post("/admin/login/", {"username": user, "password": password})
            assert "correct username and password" in errors(answer) or "correct" in answer.content.decode()
            assert stranger.get("/admin/").status_code == 302
    browser = client("admin", "acme.localhost", "acme")
    for host in ("localhost", "globex.localhost"):
        assert browser.get("/admin/", headers={"host": host}).status_code == 302


@probe
def a_tenants_admin_shows_its_own_rows() -> None:
    """Its users and notes, and no tenants; what its admin logs stays there."""
    for name, other in (("acme", "globex"), ("globex", "acme")):
        browser = client("admin", f"{name}.localhost", name)
        users = browser.get("/admin/auth/user/").content.decode()
        assert f"user-of-{name}" in users
        assert f"user-of-{other}" not in users
        notes = browser.get("/admin/notes/note/").content.decode()
        assert f"note of {name}" in notes
        assert f"note of {other}" not in notes
        assert browser.get(LIST).status_code == 404
        assert "customers" not in browser.get("/admin/").content.decode()
        answer = browser.post("/admin/notes/tag/add/", {"name": f"tag-{name}"})
        assert answer.status_code == 302
        with tenant_context(Tenant.objects.get(schema_name=name)):
            entry = LogEntry.objects.get()
            assert (entry.object_repr, entry.user.username) == (f"tag-{name}", "admin")
            assert entry.content_type.model_class().__name__ == "Tag"
    with schema_context("public"):
        assert not LogEntry.objects.filter(object_repr__startswith="tag-").exists()


@probe
def tenants_are_no_ones_where_a_tenant_is_active() -> None:
    """Registered on a tenant's site by mistake, they stay out of its superuser's reach."""
    model_admin = CompanyAdmin(Tenant, public_site)
    request: Any = mock.Mock()
    request.user.has_perm.return_value = request.user.has_module_perms.return_value = True
    permissions = ("module", "view", "add", "change", "delete")
    with tenant_context(Tenant.objects.get(schema_name="acme")):
        assert not any(getattr(model_admin, f"has_{name}_permission")(request) for name in permissions)
    with schema_context("public"):
        assert all(getattr(model_admin, f"has_{name}_permission")(request) for name in permissions)


@probe
def a_project_starts_provisioning_in_its_own_way() -> None:
    """The method is called once, after the commit, with the tenants."""
    called: list[Any] = []

    def enqueue(self: Any, request: Any, tenants: Any) -> None:
        assert not connection.in_atomic_block
        called.append((request.user.username, [tenant.schema_name for tenant in tenants]))

    with mock.patch.object(CompanyAdmin, "start_provisioning", enqueue):
        client().post(ADD, fields("later", "later.localhost"))
    assert called == [("root", ["later"])]
    assert Tenant.objects.get(schema_name="later").status == "provisioning"


if __name__ == "__main__":
    main(prepare)
