"""Content types, sites and permissions of one tenant are never used in another (hazard 14)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType, ContentTypeManager
from django.db import connection
from django.test import RequestFactory
from django.test.utils import modify_settings, override_settings

from example_project.notes.models import Note, Tag
from pg_tenants import conf, schema_context, tenant_context
from pg_tenants.caches import SchemaCache
from pg_tenants.exceptions import WrongTenant


@pytest.fixture
def shifted(acme: Any, globex: Any) -> tuple[Any, Any]:
    """Return two tenants, in the second of which every content type has another id."""
    with tenant_context(globex):
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL DEFERRED; TRUNCATE django_content_type CASCADE")
            cursor.execute("ALTER SEQUENCE django_content_type_id_seq RESTART WITH 1000")
        ContentType.objects.clear_cache()
        ContentType.objects.get_for_models(Tag, Note, User, LogEntry)
    return acme, globex


def test_ids_are_the_tenants_own(shifted: tuple[Any, Any]) -> None:
    """By each of the manager's methods, warm and cold, in turn."""
    for clear in (True, False, False):
        for tenant in shifted:
            with tenant_context(tenant):
                if clear:
                    ContentType.objects.clear_cache()
                stored = dict(ContentType.objects.values_list("model", "pk").filter(app_label="notes"))
                assert (stored["note"] > 999) == (tenant.schema_name == "globex")
                found = ContentType.objects.get_for_model(Note)
                assert found.pk == stored["note"]
                assert found._state.db.schema == tenant.schema_name
                assert ContentType.objects.get_for_models(Note, Tag)[Tag].pk == stored["tag"]
                assert ContentType.objects.get_by_natural_key("notes", "tag").pk == stored["tag"]
                assert ContentType.objects.get_for_id(stored["note"]) == found
    with tenant_context(shifted[1]), pytest.raises(ContentType.DoesNotExist):
        ContentType.objects.get_for_id(1)


def test_it_is_still_a_cache(shifted: tuple[Any, Any], django_assert_num_queries: Any) -> None:
    """Each schema asks the database once, and clearing forgets all of them."""
    ContentType.objects.clear_cache()
    for expected in (1, 0, 0):
        for tenant in shifted:
            with tenant_context(tenant), django_assert_num_queries(expected):
                ContentType.objects.get_for_model(Note)
    with tenant_context(shifted[0]):
        ContentType.objects.clear_cache()
    with tenant_context(shifted[1]), django_assert_num_queries(1):
        ContentType.objects.get_for_model(Note)


def test_all_managers_have_it(open_db: None) -> None:
    """The copies that models have share one, and those of migrations' models have their own."""
    managers = [*ContentType._meta.managers, ContentType._default_manager, ContentType.objects.db_manager("default")]
    assert {id(manager._cache) for manager in managers} == {id(ContentType.objects._cache)}
    made = ContentTypeManager()
    assert isinstance(made._cache, SchemaCache)
    assert made._cache is not ContentType.objects._cache


def test_the_admins_log_and_permissions(shifted: tuple[Any, Any]) -> None:
    """What is written with a content type refers to the tenant's own row."""
    for tenant in (*shifted, *shifted):
        with tenant_context(tenant):
            user, note = User.objects.get(), Note.objects.get() if Note.objects.exists() else None
            LogEntry.objects.log_actions(user.pk, [user], CHANGE)
            entry = LogEntry.objects.latest("pk")
            assert entry.content_type == ContentType.objects.get(app_label="auth", model="user")
            assert entry.get_edited_object() == user
            assert note is None or note.author == user
            permission, _ = Permission.objects.get_or_create(
                codename="add_note", content_type=ContentType.objects.get_for_model(Note), defaults={"name": "x"}
            )
            user.user_permissions.add(permission)
            assert User.objects.get().has_perm("notes.add_note")


def test_a_content_type_of_another_tenant_is_refused(shifted: tuple[Any, Any]) -> None:
    """As any other instance is."""
    acme, globex = shifted
    with tenant_context(acme):
        kind = ContentType.objects.get_for_model(Note)
        note = Note.objects.get()
    with tenant_context(globex):
        with pytest.raises(WrongTenant):
            Permission.objects.create(codename="x", name="x", content_type=kind)
        with pytest.raises(WrongTenant, match=r"'globex'.*'acme'"):
            ContentType.objects.db_manager(note._state.db).get_for_model(note)


def test_making_content_types_in_a_schema(shifted: tuple[Any, Any]) -> None:
    """post_migrate's handler makes those that are missing there, whatever another schema has."""
    from django.apps import apps

    acme, globex = shifted
    with tenant_context(acme):
        ContentType.objects.get_for_models(Note, Tag)
    with tenant_context(globex):
        ContentType.objects.filter(app_label="notes").delete()
        create_contenttypes(apps.get_app_config("notes"), verbosity=0)
        assert ContentType.objects.filter(app_label="notes").count() == 2
        assert ContentType.objects.get_for_model(Note).pk > 999


def test_a_shared_app_has_one_cache() -> None:
    """Where content types are in a fixed module alone, the schema makes no difference."""
    modules = {"shared": {"schema": "public", "apps": ["contenttypes"]}, "tenant": {"apps": ["notes"]}}
    raw = {"TENANT_MODEL": "customers.Tenant", "DOMAIN_MODEL": "customers.Domain", "MODULES": modules}
    cache = SchemaCache("contenttypes", by_alias=True)
    with override_settings(PG_TENANTS=raw):
        assert conf.require().modules["shared"].schema == "public"
        cache["default"] = {"a": 1}
        for schema in ("acme", "globex"):
            with schema_context(schema):
                assert cache["default"] == {"a": 1}


def test_the_memory_is_bounded() -> None:
    """Thousands of tenants leave the most recently used entries, also when threads use it together."""
    cache = SchemaCache("contenttypes", by_alias=True, kept=50)
    with schema_context("kept"):
        cache["default"] = {"x": "kept"}

    def fill(name: str) -> None:
        for number in range(2000):
            with schema_context(f"{name}_{number}"):
                cache.setdefault("default", {})["x"] = number
            with schema_context("kept"):
                assert cache["default"]["x"] == "kept"

    threads = [threading.Thread(target=fill, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 51
    with schema_context("kept"):
        assert cache["default"]["x"] == "kept"
    with schema_context("a_1"):
        assert "default" not in cache


def test_sites(kept_admin: None, acme: Any, globex: Any) -> None:
    """The site of a tenant is the one in its own table, by id and by host, before and after a change."""
    from django.conf import settings

    raw = {**settings.PG_TENANTS, "MODULES": {**settings.PG_TENANTS["MODULES"]}}
    tenant_module = raw["MODULES"]["tenant"]
    raw["MODULES"]["tenant"] = {**tenant_module, "apps": [*tenant_module["apps"], "django.contrib.sites"]}
    with modify_settings(INSTALLED_APPS={"append": "django.contrib.sites"}), override_settings(PG_TENANTS=raw):
        from django.contrib.sites import models as sites
        from django.contrib.sites.shortcuts import get_current_site

        request = RequestFactory().get("/", headers={"host": "shop.localhost"})
        for tenant in (acme, globex):
            with tenant_context(tenant):
                with connection.schema_editor() as editor:
                    editor.create_model(sites.Site)
                sites.Site.objects.create(pk=1, domain="shop.localhost", name=tenant.schema_name)
        sites.Site.objects.clear_cache()
        for _ in range(2):
            for tenant in (acme, globex):
                with tenant_context(tenant):
                    assert get_current_site(request).name == tenant.schema_name
                    with override_settings(SITE_ID=1):
                        assert sites.Site.objects.get_current().name == tenant.schema_name
            sites.Site.objects.clear_cache()
        with override_settings(SITE_ID=1):
            with tenant_context(acme):
                site = sites.Site.objects.get_current()
            with tenant_context(globex):
                sites.Site.objects.get_current()
                sites.Site.objects.filter(pk=1).update(name="unseen")
            with tenant_context(acme):
                site.name = "changed"
                site.save()
                assert sites.Site.objects.get_current().name == "changed"
            with tenant_context(globex):
                assert sites.Site.objects.get_current().name == "globex"
        sites.Site.objects.clear_cache()
        assert len(sites.SITE_CACHE) == 0
