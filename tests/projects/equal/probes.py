"""What has to hold in this project. Run as a program, it prints a JSON object: each probe's name and its error."""

from __future__ import annotations

import io
import json
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import django

PROBES: list[Callable[[], None]] = []


def probe(function: Callable[[], None]) -> Callable[[], None]:
    """Register a probe."""
    PROBES.append(function)
    return function


@contextmanager
def raises(error: type[Exception], *parts: str) -> Any:
    """Expect an error whose message has these parts."""
    try:
        yield
    except error as exc:
        for part in parts:
            assert part in str(exc), f"{part!r} is not in {exc}"
    else:
        raise AssertionError(f"{error.__name__} was not raised")


def main() -> None:
    """Make the database's content, run the probes, and print what came of them."""
    django.setup()
    results: dict[str, str] = {"prepare": ""}
    try:
        prepare()
    except Exception:  # noqa: BLE001
        results["prepare"] = traceback.format_exc()
    for function in PROBES:
        try:
            function()
        except Exception:  # noqa: BLE001
            results[function.__name__] = traceback.format_exc()
        else:
            results[function.__name__] = ""
    sys.stdout.write("\n" + json.dumps(results) + "\n")


def models() -> Any:
    """Return the models, which can be imported only after the set-up."""
    from django.contrib.auth.models import Group, User

    from tests.projects.equal.local.models import Item as Local
    from tests.projects.equal.people.models import Tenant
    from tests.projects.equal.shop.models import Item as Shop
    from tests.projects.equal.stock.models import Item as Stock

    return Shop, Stock, Local, User, Group, Tenant


def prepare() -> None:
    """Migrate, and fill."""
    from django.core.management import call_command
    from django.db import connection

    from pg_tenants import schema_context, tenant_context

    call_command("migrate_schemas", verbosity=0, run_syncdb=True, skip_checks=False)
    Shop, Stock, Local, User, _, Tenant = models()
    acme, globex = (Tenant.objects.create(schema_name=name) for name in ("acme", "globex"))
    # The tables' own keys start elsewhere, so that a row of a wrong table is never found by chance.
    for schema, start in (("shop", 100), ("stock", 200), ("acme", 300), ("globex", 400)):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SEQUENCE {schema}.item_id_seq RESTART WITH {start}")
    ball = Shop.objects.create(name="ball", price=3)
    Shop.objects.create(name="bat", price=5, parent=ball)
    Stock.objects.create(sold=ball, amount=7)
    with schema_context("public"):
        User.objects.create_user("root", password="public")
    for tenant in (acme, globex):
        with tenant_context(tenant):
            user = User.objects.create_user("ada", password=tenant.schema_name)
            Local.objects.create(name=f"item of {tenant.schema_name}", sold=ball, owner=user)


def in_tenant(name: str) -> Any:
    from pg_tenants import tenant_context

    return tenant_context(models()[-1].objects.get(schema_name=name))


@probe
def each_model_has_its_own_table() -> None:
    """With and without a tenant."""
    from pg_tenants import schema_context

    Shop, Stock, Local, *_ = models()

    def check() -> None:
        assert sorted(Shop.objects.values_list("name", flat=True)) == ["ball", "bat"]
        assert [item.amount for item in Stock.objects.all()] == [7]
        assert Shop.objects.get(name="ball").pk == 100
        assert Stock.objects.get().pk == 200

    check()
    for name in ("public", "shop", "stock"):
        with schema_context(name):
            check()
    for name in ("acme", "globex"):
        with in_tenant(name):
            check()
            assert [item.name for item in Local.objects.all()] == [f"item of {name}"]


@probe
def foreign_keys_in_the_database_refer_to_the_right_table() -> None:
    """Whatever else is called so in the schema that they are made in."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conrelid::regclass::text, n.nspname || '.' || c.relname FROM pg_constraint k"
            " JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE contype = 'f' AND conname LIKE '%sold%' ORDER BY 1"
        )
        found = dict(cursor.fetchall())
    # Names that are on the path are told without their schema.
    found = {name.removeprefix("stock."): target for name, target in found.items()}
    assert found == dict.fromkeys(("acme.wish", "globex.wish", "hold"), "shop.item"), found


@probe
def foreign_keys_to_users_of_tenants_stay_in_the_tenant() -> None:
    """They never refer to the shared users, also where the tenant's table is made later in the same run."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT a.relnamespace = b.relnamespace FROM pg_constraint k"
            " JOIN pg_class a ON a.oid = k.conrelid JOIN pg_class b ON b.oid = k.confrelid"
            " WHERE contype = 'f' AND b.relname = 'auth_user'"
        )
        assert cursor.fetchall() == [(True,)]


@probe
def a_tenants_table_needs_a_tenant() -> None:
    """Neither of the others is taken for it."""
    from pg_tenants import schema_context
    from pg_tenants.exceptions import NoActiveTenant

    _, _, Local, *_ = models()
    for context in (None, "public", "shop"):
        with schema_context(context) if context else nothing(), raises(NoActiveTenant, "'item'", "tenant_context"):
            Local.objects.count()
    with raises(NoActiveTenant):
        Local.objects.create(name="x")
    with raises(NoActiveTenant):
        Local.objects.all().delete()


@contextmanager
def nothing() -> Any:
    yield


@probe
def a_shared_and_tenants_app_needs_a_choice() -> None:
    """No tenant: an error; a tenant: its own; schema_context("public"): the shared one."""
    from django.contrib.auth import authenticate

    from pg_tenants import schema_context
    from pg_tenants.exceptions import NoActiveTenant

    *_, User, Group, _ = models()
    with raises(NoActiveTenant, "'auth_user'", "schema_context('public')"):
        User.objects.count()
    with raises(NoActiveTenant):
        User.objects.create_user("x")
    with raises(NoActiveTenant):
        User.objects.all().update(is_staff=True)
    with schema_context("shop"), raises(NoActiveTenant):
        User.objects.count()
    with schema_context("public"):
        assert [user.username for user in User.objects.all()] == ["root"]
        assert authenticate(username="root", password="public")
        assert not authenticate(username="ada", password="acme")
    for name, other in (("acme", "globex"), ("globex", "acme")):
        with in_tenant(name):
            assert [user.username for user in User.objects.all()] == ["ada"]
            assert authenticate(username="ada", password=name)
            assert not authenticate(username="ada", password=other)
            group = Group.objects.create(name=f"group of {name}")
            User.objects.get().groups.add(group)
            assert User.objects.filter(groups__name=f"group of {name}").count() == 1
            assert not User.objects.filter(groups__name=f"group of {other}").exists()
    with schema_context("public"):
        assert not Group.objects.exists()


@probe
def permissions_and_content_types_are_of_the_schema() -> None:
    """Made by migrating, in each."""
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    from pg_tenants import schema_context

    with schema_context("public"):
        assert Permission.objects.filter(codename="add_user").exists()
        shared = ContentType.objects.count()
    with in_tenant("acme"):
        assert Permission.objects.filter(codename="add_user").exists()
        assert Permission.objects.filter(codename="add_item", content_type__app_label="local").count() == 1
        assert ContentType.objects.count() > 0
    assert shared > 0


@probe
def joins_between_tables_of_one_name() -> None:
    """Forwards, backwards, over the tenant's, in subqueries and with filtered relations."""
    from django.db.models import Count, Exists, F, FilteredRelation, OuterRef, Q, Subquery, Sum

    Shop, Stock, Local, *_ = models()
    stock = Stock.objects.select_related("sold").get()
    assert (stock.amount, stock.sold.name) == (7, "ball")
    assert Stock.objects.filter(sold__name="ball").count() == 1
    assert Shop.objects.filter(stocks__amount=7).get().name == "ball"
    assert Shop.objects.exclude(stocks__amount=7).get().name == "bat"
    assert list(Stock.objects.values_list("sold__name", "amount")) == [("ball", 7)]
    assert Shop.objects.annotate(total=Sum("stocks__amount")).get(name="ball").total == 7
    assert Shop.objects.annotate(number=Count("stocks")).order_by("-number").first().name == "ball"
    assert Shop.objects.filter(Exists(Stock.objects.filter(sold=OuterRef("pk")))).get().name == "ball"
    amount = Stock.objects.filter(sold=OuterRef("pk")).values("amount")
    assert Shop.objects.annotate(amount=Subquery(amount)).get(amount=7).name == "ball"
    assert Shop.objects.filter(pk__in=Stock.objects.values("sold")).get().name == "ball"
    relation = FilteredRelation("stocks", condition=Q(stocks__amount__gt=1))
    assert Shop.objects.annotate(many=relation).filter(many__isnull=False).get().name == "ball"
    assert Shop.objects.filter(children__name="bat").get().name == "ball"
    assert Shop.objects.filter(parent__stocks__amount=7).get().name == "bat"
    assert [item.name for item in Shop.objects.prefetch_related("stocks").order_by("name")] == ["ball", "bat"]
    assert Stock.objects.annotate(double=F("sold__price") * 2).get().double == 6
    assert Shop.objects.order_by("stocks__amount").distinct().count() == 2
    with in_tenant("acme"):
        local = Local.objects.select_related("sold", "owner").get()
        assert (local.sold.name, local.owner.username) == ("ball", "ada")
        assert Local.objects.filter(sold__stocks__amount=7).get().name == "item of acme"
        assert Shop.objects.filter(locals__name="item of acme").get().name == "ball"
        assert Shop.objects.filter(locals__isnull=False, stocks__isnull=False).get().name == "ball"


@probe
def writing_reaches_the_right_table() -> None:
    """Creating, changing and deleting, one by one and many at once."""
    from django.db import transaction
    from django.db.models import F

    Shop, Stock, Local, *_ = models()
    with transaction.atomic():
        item, _ = Shop.objects.get_or_create(name="net", defaults={"price": 1})
        Shop.objects.update_or_create(name="net", defaults={"price": 2})
        made = Shop.objects.bulk_create([Shop(name="a"), Shop(name="b")])
        assert all(row.pk for row in made)
        Shop.objects.bulk_create(
            [Shop(name="a", price=9)], update_conflicts=True, unique_fields=["name"], update_fields=["price"]
        )
        assert Shop.objects.get(name="a").price == 9
        for row in made:
            row.price = 4
        Shop.objects.bulk_update(made, ["price"])
        assert Shop.objects.filter(price=4).update(price=F("price") + 1) == 2
        Stock.objects.create(sold=item, amount=1)
        assert Stock.objects.filter(sold__name="net").update(amount=2) == 1
        item.others.add(*made)
        assert item.others.count() == 2
        item.others.remove(made[0])
        assert [other.name for other in item.others.all()] == ["b"]
        with in_tenant("acme"):
            Local.objects.create(name="x", sold=item)
            assert Local.objects.filter(name="x").delete()[0] == 1
            assert Local.objects.count() == 1
        assert Stock.objects.count() == 2
        transaction.set_rollback(True)
    with transaction.atomic(), in_tenant("acme"):
        item = Shop.objects.create(name="net")
        Stock.objects.create(sold=item)
        Local.objects.create(name="x", sold=item)
        _, by_model = item.delete()
        assert by_model == {"shop.Item": 1, "stock.Item": 1, "local.Item": 1}, by_model
        transaction.set_rollback(True)
    assert Shop.objects.count() == 2
    assert Stock.objects.count() == 1


@probe
def rows_are_locked_in_the_right_table() -> None:
    """SELECT … FOR UPDATE, of all and of one of the tables."""
    from django.db import transaction

    Shop, Stock, *_ = models()
    with transaction.atomic():
        assert Shop.objects.select_for_update().get(name="ball").pk == 100
        assert Stock.objects.select_related("sold").select_for_update().get().pk == 200
        assert Stock.objects.select_related("sold").select_for_update(of=("self",)).get().pk == 200
        assert Stock.objects.select_related("sold").select_for_update(of=("sold",)).get().pk == 200


@probe
def the_lock_is_on_the_table_that_was_named() -> None:
    """And the other one's row can be locked by another session."""
    from django.db import connection, transaction

    _, Stock, *_ = models()
    other = connection.copy()
    try:
        for named, locked in (("self", "stock"), ("sold", "shop")):
            with transaction.atomic():
                Stock.objects.select_related("sold").select_for_update(of=(named,)).get()
                for schema, pk in (("shop", 100), ("stock", 200)):
                    with other.cursor() as cursor:
                        cursor.execute(f"SELECT id FROM {schema}.item WHERE id = {pk} FOR UPDATE SKIP LOCKED")
                        assert bool(cursor.fetchall()) == (schema != locked), (named, schema)
    finally:
        other.close()


@probe
def the_rest_of_the_orm() -> None:
    """Sets, iterators, pickles, explain, copies of queries, and rows as dictionaries."""
    Shop, Stock, Local, *_ = models()
    names = Shop.objects.values_list("name")
    assert sorted(names.filter(price=3).union(names.filter(price=5))) == [("ball",), ("bat",)]
    assert list(names.filter(price=3).intersection(names.all())) == [("ball",)]
    assert len(list(Shop.objects.iterator(chunk_size=1))) == 2
    assert set(Shop.objects.in_bulk([100])) == {100}
    assert Shop.objects.filter(pk__gt=1).exists()
    assert "Scan" in Shop.objects.all().explain()
    assert Shop.objects.aggregate(found=django.db.models.Max("price")) == {"found": 5}
    queryset = Shop.objects.order_by("name")
    assert [item.name for item in pickle.loads(pickle.dumps(queryset))] == ["ball", "bat"]
    restored = Shop.objects.all()
    restored.query = pickle.loads(pickle.dumps(queryset.query))
    assert [item.name for item in restored] == ["ball", "bat"]
    assert pickle.loads(pickle.dumps(Stock.objects.get())).sold.name == "ball"
    assert Shop.objects.only("name").get(name="ball").price == 3
    query = Local.objects.order_by("pk").values_list("name", flat=True)
    for name in ("acme", "globex"):
        with in_tenant(name):
            assert list(query.all()) == [f"item of {name}"]


@probe
def fixtures_come_back_into_the_right_table() -> None:
    """dumpdata and loaddata, sequences included."""
    import tempfile

    from django.core.management import call_command
    from django.db import transaction

    Shop, Stock, *_ = models()
    out = io.StringIO()
    call_command("dumpdata", "shop", "stock", stdout=out)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, transaction.atomic():
        file.write(out.getvalue())
        file.flush()
        # The tenants' tables refer to what is deleted, so one has to be active.
        with in_tenant("acme"):
            Shop.objects.all().delete()
        assert not Stock.objects.exists()
        call_command("loaddata", file.name, verbosity=0)
        assert (Shop.objects.count(), Stock.objects.get().pk) == (2, 200)
        assert Shop.objects.create(name="new").pk > 101
        transaction.set_rollback(True)


@probe
def deleting_a_user_of_a_tenant_leaves_the_others() -> None:
    """The collector asks the tenant's tables alone."""
    from django.db import transaction

    from pg_tenants import schema_context

    _, _, Local, User, *_ = models()
    with transaction.atomic(), in_tenant("acme"):
        User.objects.get(username="ada").delete()
        assert not Local.objects.exists()
        with in_tenant("globex"):
            assert User.objects.count() == Local.objects.count() == 1
        with schema_context("public"):
            assert User.objects.count() == 1
        transaction.set_rollback(True)


@probe
def the_tables_are_where_they_belong() -> None:
    """One in each schema."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'item' ORDER BY 1")
        assert [name for (name,) in cursor.fetchall()] == ["acme", "globex", "shop", "stock"]
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'auth_user' ORDER BY 1")
        assert [name for (name,) in cursor.fetchall()] == ["acme", "globex", "public"]


@probe
def migrating_again_finds_nothing_to_do() -> None:
    """Nor does makemigrations: a marked name is the plain one."""
    from django.core.management import call_command

    out = io.StringIO()
    call_command("migrate_schemas", check_unapplied=True, stdout=out)
    call_command("makemigrations", "shop", "stock", check_changes=True, dry_run=True, stdout=out)


if __name__ == "__main__":
    main()
