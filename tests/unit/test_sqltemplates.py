"""`pg_tenants.sql.render`: templates in SQL text. No statement is sent."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from pg_tenants import schema_context, sqltemplates
from pg_tenants.exceptions import NoActiveTenant, PgTenantsError, SqlTemplateError
from pg_tenants.sql import render


def physical(name: str) -> str:
    connection: Any = connections["default"]
    return str(connection.physical_schema(name))


def acme() -> str:
    return f'"{physical("acme")}"'


# -- what a template stands for ---------------------------------------------------------------------------------------


def test_a_tenants_table() -> None:
    """It is qualified by the active tenant's schema, whichever is active when it is rendered."""
    for name in ("acme", "globex"):
        with schema_context(name):
            assert render("SELECT * FROM {{tables.notes_note}} n") == f'SELECT * FROM "{physical(name)}".notes_note n'


def test_a_fixed_modules_table() -> None:
    """It is qualified by that module's schema, with a tenant and without."""
    wanted = f'"{physical("billing")}".billing_invoice'
    assert render("{{tables.billing_invoice}}") == wanted
    with schema_context("acme"):
        assert render("{{tables.billing_invoice}}") == wanted
        assert render("{{ tables . customers_tenant }}") == f'"{physical("public")}".customers_tenant'


def test_a_table_of_no_model() -> None:
    """Such as one that SQL files make: it is where statements make tables; without a schema it keeps its name."""
    with schema_context("acme"):
        assert render("{{tables.audit}}") == f"{acme()}.audit"
    assert render("{{tables.audit}}") == "audit"
    assert render("{{tables.order}}") == '"order"'


def test_the_schema() -> None:
    """It is the active one's; a fixed module's can be named."""
    with schema_context("acme"):
        assert render("CREATE FUNCTION f() SET search_path = {{schema}}") == (
            f"CREATE FUNCTION f() SET search_path = {acme()}"
        )
        assert render("{{schema.billing}}") == f'"{physical("billing")}"'
        assert render("{{schema.tenant}}.x") == f"{acme()}.x"
    with schema_context("billing"):
        assert render("{{schema}}") == f'"{physical("billing")}"'


@pytest.mark.parametrize("name", ["Weird", "two words", "select 1; --", 'quo"te', "größe"])
def test_names_are_quoted(name: str) -> None:
    """Where they need it."""
    written = name.replace('"', '""')
    with schema_context("acme"):
        assert render(f'{{{{tables."{written}"}}}}') == f'{acme()}."{written}"'


def test_the_app_may_be_in_both() -> None:
    """With a tenant its own table is meant, in public the shared one; with neither it is an error."""
    both = {**settings.PG_TENANTS["MODULES"]["shared"], "apps": ["customers", "auth"]}
    modules = {**settings.PG_TENANTS["MODULES"], "shared": both}
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        shared = f'"{physical("public")}".auth_user'
        with schema_context("acme"):
            assert render("{{tables.auth_user}}") == f"{acme()}.auth_user"
            assert render("{{tables.shared.auth_user}}") == shared
        with schema_context("public"):
            assert render("{{tables.auth_user}}") == shared
        with pytest.raises(NoActiveTenant, match=r"\{\{tables\.shared\.auth_user\}\}"):
            render("{{tables.auth_user}}")


def test_several_fixed_modules() -> None:
    """A table that two of them have has to be named with its module, unless one of them is active."""
    modules = {**settings.PG_TENANTS["MODULES"], "other": {"schema": "other", "apps": ["billing"]}}
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        with schema_context("acme"), pytest.raises(SqlTemplateError, match=r"tables\.billing\.billing_invoice.* or "):
            render("{{tables.billing_invoice}}")
        with schema_context("acme"):
            assert render("{{tables.other.billing_invoice}}") == f'"{physical("other")}".billing_invoice'
        with schema_context("other"):
            assert render("{{tables.billing_invoice}}") == f'"{physical("other")}".billing_invoice'


def test_an_alias_that_is_bound(make_bound: Any) -> None:
    """Its schema is meant, whatever is active."""
    connection = make_bound("reports")
    with schema_context("acme"):
        found = sqltemplates.render("{{tables.notes_note}} {{schema}}", connection)
    name = connection.physical_schema("reports")
    assert found == f'"{name}".notes_note "{name}"'


def test_without_schemas() -> None:
    """Names stay bare where the project has none; the schema is PostgreSQL's own default."""
    with override_settings(PG_TENANTS=None):
        assert render("SELECT {{tables.notes_note}}, {{schema}}.x") == 'SELECT notes_note, "public".x'
        with pytest.raises(SqlTemplateError, match="'billing' cannot be one"):
            render("{{tables.billing.x}}")


@pytest.fixture
def make_bound() -> Any:
    from django.db.utils import load_backend

    def make(schema: str) -> Any:
        entry = connections.settings["default"]
        options = {**entry["OPTIONS"], "tenants": {**entry["OPTIONS"].get("tenants", {}), "schema": schema}}
        return load_backend(entry["ENGINE"]).DatabaseWrapper({**entry, "OPTIONS": options}, "bound")

    return make


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("SELECT\n{{table.notes_note}}", SqlTemplateError, ["line 2", "'table'", "Did you mean 'tables'?"]),
        ("{{shema}}", SqlTemplateError, ["Did you mean 'schema'?"]),
        ("{{tables}}", SqlTemplateError, ["no template", "{{tables.name}}"]),
        ("{{}}", SqlTemplateError, ["no template"]),
        ("{{tables.a.b.c}}", SqlTemplateError, ["no template"]),
        ("{{tables.a", SqlTemplateError, ["no '}}'"]),
        ("{{tables.biling.x}}", SqlTemplateError, ["'biling'", "Did you mean 'billing'?"]),
        ("{{tables.notes_note}}", NoActiveTenant, ["'notes_note'", "'tenant'", "no tenant is active"]),
        ("{{tables.tenant.notes_note}}", NoActiveTenant, ["tenant_context"]),
        ("{{schema}}", NoActiveTenant, ["{{schema.shared}}"]),
    ],
)
def test_errors(text: str, kind: type[Exception], parts: list[str]) -> None:
    """They say what is wrong, where, and what would be right."""
    with pytest.raises(kind) as caught:
        render(text)
    assert isinstance(caught.value, PgTenantsError)
    for part in parts:
        assert part in str(caught.value)


# -- what is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '{{tables.notes_note}}'",
        "SELECT E'\\'{{nothing}}'",
        'SELECT "{{schema}}"',
        "SELECT 1 -- {{tables.x}}",
        "SELECT /* {{nothing}} /* {{schema}} */ */ 1",
        "SELECT $${{tables.x}}$$, $body$ {{schema}} $body$",
        "SELECT '{{1,2},{3,4}}'::int[][]",
        "SELECT '100%' LIKE '%s'",
        "",
        "{ { } }",
    ],
)
def test_what_is_no_code_stays(text: str) -> None:
    """Strings, quoted identifiers, comments and dollar quotes."""
    with schema_context("acme"):
        assert render(text) == text
        assert render(text + "\n, {{tables.x}}") == text + f"\n, {acme()}.x"


def test_percent_signs_and_placeholders_stay() -> None:
    """Parameters are bound by who sends the statement."""
    with schema_context("acme"):
        assert render("SELECT %s, 5 %% 2 FROM {{tables.x}} WHERE a = %(b)s") == (
            f"SELECT %s, 5 %% 2 FROM {acme()}.x WHERE a = %(b)s"
        )


@given(st.text(alphabet=st.sampled_from("{}'\"$-/*\n ab.tables%"), max_size=40))
def test_any_text(text: str) -> None:
    """It is rendered or refused, never with another error; and inside a string constant it is never touched."""
    quoted = "SELECT '" + text.replace("'", "''") + "'"
    with schema_context("acme"):
        assert render(quoted) == quoted
        try:
            found = render(text)
        except SqlTemplateError:
            return
        assert found == text or "{{" in text
