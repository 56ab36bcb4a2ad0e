"""The registry of modules, search paths, and tables that several modules have."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, models
from django.test import modify_settings, override_settings
from django.test.utils import isolate_apps

from pg_tenants.context import ActiveSchema
from pg_tenants.exceptions import ConfigurationError, NoActiveTenant
from pg_tenants.modules import Registry, TableName, mark_ambiguous_tables, registry

BASE: dict[str, Any] = {"TENANT_MODEL": "customers.Tenant", "DOMAIN_MODEL": "customers.Domain"}
THREE: dict[str, Any] = {
    "shared": {"schema": "public", "apps": ["example_project.customers"]},
    "billing": {"schema": "billing", "apps": ["billing"], "extensions": ["btree_gist"]},
    "tenant": {"apps": ["notes", "auth"], "extensions": ["pg_trgm"]},
}


def build(modules: dict[str, Any], **settings: Any) -> Registry:
    with override_settings(PG_TENANTS={**BASE, "MODULES": modules, **settings}):
        found = registry()
    assert found is not None
    return found


def test_modules_are_found_by_app_and_schema() -> None:
    """In the order of the setting; fixed ones have a schema, tenant ones none."""
    found = build(THREE)
    assert [module.name for module in found] == ["shared", "billing", "tenant"]
    assert [module.name for module in found.fixed] == ["shared", "billing"]
    assert [module.name for module in found.tenant] == ["tenant"]
    assert [module.name for module in found.of_app("billing")] == ["billing"]
    assert found.of_app("sessions") == ()
    assert [module.name for module in found.of_schema("public")] == ["shared"]
    assert found.of_schema("acme") == ()
    assert found.modules["tenant"].extensions == ("pg_trgm",)


@pytest.mark.parametrize(
    "entry", ["notes", "example_project.notes", "example_project.notes.apps.NotesConfig", "django.contrib.auth"]
)
def test_an_app_is_given_as_in_installed_apps_or_by_its_label(entry: str) -> None:
    """By its name, its label, or the path of its configuration."""
    found = build({"tenant": {"apps": [entry]}})
    assert found.modules["tenant"].apps == (entry.replace(".apps.NotesConfig", "").rpartition(".")[2],)


def test_the_registry_follows_settings_and_apps(kept_admin: None) -> None:
    """Overriding one of them builds another."""
    before = registry()
    with override_settings(PG_TENANTS={**BASE, "MODULES": {"tenant": {"apps": ["sites"]}}}):
        found = registry()
        assert found is not None
        assert found is not before
        assert registry() is found
        assert found.of_app("sites") == ()
        with modify_settings(INSTALLED_APPS={"append": "django.contrib.sites"}):
            found = registry()
            assert found is not None
            assert [module.name for module in found.of_app("sites")] == ["tenant"]
        found = registry()
        assert found is not None
        assert found.of_app("sites") == ()
    with override_settings(PG_TENANTS=None):
        assert registry() is None


# -- search paths -----------------------------------------------------------------------------------------------------


def test_search_paths() -> None:
    """The active schema first, then the fixed modules' in their order; each once."""
    found = build(THREE)
    assert found.search_path("acme", "default") == ("acme", "public", "billing")
    assert found.search_path(None, "default") == ("public", "billing")
    assert found.search_path("billing", "default") == ("billing", "public")
    assert found.search_path("public", "default") == ("public", "billing")


def test_two_fixed_modules_may_share_a_schema() -> None:
    """It is on the path once, and holds the tables of both."""
    found = build({**THREE, "more": {"schema": "public", "apps": ["sessions"]}})
    assert found.search_path("acme", "default") == ("acme", "public", "billing")
    assert [module.name for module in found.of_schema("public")] == ["shared", "more"]
    assert [module.name for module in found.of_active(ActiveSchema("public"))] == ["shared", "more"]


def test_only_modules_of_the_same_database_are_on_a_path() -> None:
    """An alias that owns no module is another way into the default database."""
    found = build({**THREE, "billing": {"schema": "billing", "apps": ["billing"], "database": "other"}})
    assert found.search_path("acme", "default") == ("acme", "public")
    assert found.search_path("acme", "replica") == ("acme", "public")
    assert found.search_path(None, "other") == ("billing",)


@pytest.fixture
def aliases() -> Iterator[None]:
    """Add aliases on the same databases and on others."""
    here = {**connections.settings["default"], "HOST": "one", "NAME": "app"}
    places = {
        "default": {},
        "other": {"NAME": "bills"},
        "direct": {"NAME": "bills"},
        "standby": {"NAME": "bills", "HOST": "two"},
        "replica": {"HOST": "two"},
        "unknown": {"NAME": "elsewhere"},
    }
    before = dict(connections.settings)
    connections.settings.update({alias: {**here, **place} for alias, place in places.items()})
    yield
    connections.settings.clear()
    connections.settings.update(before)


def test_what_another_way_into_a_database_reaches(aliases: None) -> None:
    """The modules of the alias with the same place, or with the same name; else those of the default."""
    found = build({**THREE, "billing": {"schema": "billing", "apps": ["billing"], "database": "other"}})
    homes = {alias: found.home(alias) for alias in ("default", "other", "direct", "standby", "replica", "unknown")}
    assert homes == {
        "default": "default",
        "other": "other",
        "direct": "other",
        "standby": "other",
        "replica": "default",
        "unknown": "default",
    }
    assert found.search_path(None, "standby") == ("billing",)


def test_which_database_a_schema_is_in() -> None:
    """That of its module; where the module cannot be told, each with tenants, so that statements prove it."""
    two = {
        "shared": THREE["shared"],
        "billing": {"schema": "public", "apps": ["billing"], "database": "bills"},
        "tenant": THREE["tenant"],
        "trial": {"apps": ["sessions"], "database": "trials"},
    }
    found = build(two)

    def reached(*target: Any) -> list[str]:
        return [alias for alias in ("default", "bills", "trials") if found.reaches(ActiveSchema(*target), alias)]

    assert reached("public") == ["default", "bills"]
    assert reached("acme", "tenant") == ["default"]
    assert reached("acme", "trial") == ["trials"]
    assert reached("acme") == reached("acme", "unknown") == ["default", "trials"]
    assert [module.name for module in found.of_schema("public", "bills")] == ["billing"]
    assert found.databases == ("bills", "default", "trials")
    assert build(THREE).reaches(ActiveSchema("acme"), "replica")


# -- tenant types -----------------------------------------------------------------------------------------------------

TYPES = {**THREE, "trial": {"apps": ["notes"]}}


def test_a_tenants_module() -> None:
    """The only one needs no name; of several one has to be named."""
    assert build(THREE).tenant_module(None).name == "tenant"
    assert build(THREE).tenant_module("tenant").name == "tenant"
    assert build(TYPES).tenant_module("trial").name == "trial"
    found = build(TYPES).of_active(ActiveSchema("acme", "trial"))
    assert [module.name for module in found] == ["trial"]


@pytest.mark.parametrize(
    ("modules", "name", "parts"),
    [
        (TYPES, None, ["'acme'", "'tenant', 'trial'", "schema_context(..., module=...)"]),
        (TYPES, "trail", ["'acme'", "'trail'", "Did you mean 'trial'?"]),
        (THREE, "billing", ["'billing', which is no tenant module"]),
        ({"shared": THREE["shared"]}, None, ["'acme'", "none"]),
    ],
)
def test_a_module_that_cannot_be_told(modules: dict[str, Any], name: str | None, parts: list[str]) -> None:
    """The error names schema, module and remedy."""
    with pytest.raises(ConfigurationError) as caught:
        build(modules).tenant_module(name, "acme")
    assert all(part in str(caught.value) for part in parts)


# -- tables of one name -----------------------------------------------------------------------------------------------


def test_a_marked_name_is_its_text_and_knows_its_app() -> None:
    """It equals the plain name; it survives what models do to strings."""
    one, two = TableName.of("item", "shop"), TableName.of("item", "stock")
    assert one == "item"
    assert "item" == one  # noqa: SIM300
    assert hash(one) == hash("item")
    assert one == TableName.of("item", "shop")
    assert (one == two) is not (one != two)
    assert one != TableName.of("other", "shop")
    assert one != None  # noqa: E711
    assert f"{one}" == "item"
    assert copy.copy(one) == one
    assert copy.deepcopy(one).app == "shop"
    assert pickle.loads(pickle.dumps(one)).app == "shop"


def test_where_a_table_is_looked_for() -> None:
    """A fixed module's in its schema, a tenant's in the active one."""
    found = build({**THREE, "billing": {"schema": "billing", "apps": ["billing"]}})
    table = TableName.of("item", "billing")
    assert table.schema(None, found) == "billing"
    assert table.schema(ActiveSchema("acme"), found) == "billing"
    assert table.schema(ActiveSchema("public"), found) == "billing"
    assert table.schema(ActiveSchema("billing"), found) == "billing"
    assert TableName.of("item", "sessions").schema(None, found) is None
    tenants = TableName.of("item", "notes")
    assert tenants.schema(ActiveSchema("acme"), found) == "acme"
    for active in (None, ActiveSchema("public"), ActiveSchema("billing")):
        with pytest.raises(NoActiveTenant, match=r"'item' of app 'notes'.*tenant_context\(tenant\)\.$"):
            tenants.schema(active, found)


def test_an_app_in_both_kinds_of_module_needs_a_choice() -> None:
    """With a tenant its own is meant, with the fixed schema the shared one, with neither nothing is guessed."""
    found = build({**THREE, "shared": {"schema": "public", "apps": ["customers", "auth"]}})
    table = TableName.of("auth_user", "auth")
    assert table.schema(ActiveSchema("acme"), found) == "acme"
    assert table.schema(ActiveSchema("public"), found) == "public"
    for active in (None, ActiveSchema("billing")):
        with pytest.raises(NoActiveTenant, match=r"schema_context\('public'\) for the shared table"):
            table.schema(active, found)


def test_a_tenant_of_a_type_without_the_app_has_no_such_table() -> None:
    """A shared table of that name is not taken for its own."""
    found = build({**TYPES, "tenant": {"apps": ["auth"]}, "trial": {"apps": ["notes"]}})
    table = TableName.of("notes_note", "notes")
    assert table.schema(ActiveSchema("acme", "trial"), found) == "acme"
    with pytest.raises(NoActiveTenant):
        table.schema(ActiveSchema("acme", "tenant"), found)


@isolate_apps("example_project.customers", "example_project.billing", "example_project.notes")
def test_which_tables_are_marked() -> None:
    """Those of one name in a fixed module and another one, and no others."""

    def model(app: str, name: str, table: str, **options: Any) -> type[models.Model]:
        meta = type("Meta", (), {"app_label": app, "db_table": table, **options})
        return type(name, (models.Model,), {"__module__": __name__, "Meta": meta})

    item, other = model("customers", "Item", "item"), model("billing", "Item", "item")
    alone = model("billing", "Alone", "alone")
    note = model("notes", "Item", "item")
    unmanaged = model("customers", "View", "alone", managed=False)
    proxy = type(
        "Proxy", (item,), {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "customers", "proxy": True})}
    )
    with override_settings(PG_TENANTS={**BASE, "MODULES": THREE}):
        marked = mark_ambiguous_tables([item, other, alone, note, unmanaged, proxy])
    assert marked == [item, other, note]
    assert {m._meta.db_table.app for m in marked} == {"customers", "billing", "notes"}  # type: ignore[attr-defined]
    for plain in (alone, unmanaged):
        assert type(plain._meta.db_table) is str


@isolate_apps("example_project.notes", "django.contrib.auth")
def test_tables_of_tenant_modules_alone_are_not_marked() -> None:
    """Two tenant types never share a path, so each finds its own."""

    class Item(models.Model):  # noqa: DJ008
        class Meta:
            app_label = "notes"
            db_table = "item"

    with override_settings(PG_TENANTS={**BASE, "MODULES": TYPES}):
        assert mark_ambiguous_tables([Item]) == []
    with override_settings(PG_TENANTS=None):
        assert mark_ambiguous_tables([Item]) == []


@isolate_apps("django.contrib.auth")
def test_an_app_in_both_kinds_of_module_is_marked() -> None:
    """The tables of its many-to-many fields, too."""

    class Item(models.Model):  # noqa: DJ008
        others = models.ManyToManyField("self")

        class Meta:
            app_label = "auth"

    through = Item.others.through
    modules = {**THREE, "shared": {"schema": "public", "apps": ["customers", "auth"]}}
    with override_settings(PG_TENANTS={**BASE, "MODULES": modules}):
        assert mark_ambiguous_tables([Item, through]) == [Item, through]
