"""Generic relations reach the rows of their own tenant, wherever the content types live."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.contrib.contenttypes.prefetch import GenericPrefetch
from django.db import connection, models
from django.test.utils import isolate_apps, override_settings

from pg_tenants import tenant_context
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError, WrongTenant


def _make(*found: Any) -> None:
    with connection.schema_editor() as editor:
        for model in found:
            editor.create_model(model)


@pytest.fixture(params=["tenant", "shared", "shared, two databases"])
def placed(
    request: pytest.FixtureRequest, acme: Any, globex: Any, make_alias: Any, server_params: dict[str, Any]
) -> Iterator[str]:
    """Have the content types in the tenants' schemas or once for all in public, there with one database and with two.

    With two, the router names the alias of each query.
    """
    if request.param == "tenant":
        yield request.param
        return
    raw = copy.deepcopy(settings.PG_TENANTS)
    raw["MODULES"]["tenant"]["apps"].remove("django.contrib.contenttypes")
    raw["MODULES"]["shared"]["apps"].append("django.contrib.contenttypes")
    if "two" in request.param:
        make_alias("elsewhere", params={**server_params, "dbname": "postgres"})
        raw["MODULES"]["billing"]["database"] = "elsewhere"
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_content_type CASCADE")
    ContentType.objects.clear_cache()
    with override_settings(PG_TENANTS=raw):
        with no_schema():
            _make(ContentType)
        yield request.param
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE public.django_content_type CASCADE")
    ContentType.objects.clear_cache()


@pytest.fixture
def kinds(placed: str, acme: Any, globex: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the models of a mark on anything, of a book and of a shelf, with tables in both tenants.

    The first mark of a tenant is on its first book; acme has a second one of both.
    """
    with isolate_apps("example_project.notes"):

        class Mark(models.Model):  # noqa: DJ008
            name = models.CharField(max_length=20)
            content_type = models.ForeignKey(ContentType, models.CASCADE, related_name="+", null=True)
            object_id = models.IntegerField(null=True)
            target = GenericForeignKey()

            class Meta:
                app_label = "notes"

        class Shelf(models.Model):  # noqa: DJ008
            marks = GenericRelation(Mark)

            class Meta:
                app_label = "notes"

        class Book(models.Model):  # noqa: DJ008
            marks = GenericRelation(Mark, related_query_name="book")

            class Meta:
                app_label = "notes"

        found = {"mark": Mark, "shelf": Shelf, "book": Book}
        monkeypatch.setattr(ContentType, "model_class", lambda self: found[self.model])
        for tenant in (acme, globex):
            with tenant_context(tenant):
                _make(Mark, Shelf, Book)
                Shelf.objects.create()
                Mark.objects.create(name=f"first of {tenant.schema_name}", target=Book.objects.create())
        with tenant_context(acme):
            Mark.objects.create(name="second of acme", target=Book.objects.create())
        yield Mark, Book, Shelf


def test_each_tenant_reads_its_own(kinds: Any, acme: Any, globex: Any) -> None:
    """Forwards, backwards, prefetched, joined; in turn, so that what is cached of one does not serve the other."""
    Mark, Book, Shelf = kinds
    for tenant, count in ((acme, 2), (globex, 1), (acme, 2)):
        with tenant_context(tenant):
            own = f"first of {tenant.schema_name}"
            book = Book.objects.order_by("pk").first()
            assert [mark.name for mark in book.marks.all()] == [own]
            assert book.marks.count() == 1
            assert book.marks.get().target == book
            assert book.marks.get().target._state.db.schema == tenant.schema_name
            books = Book.objects.order_by("pk").prefetch_related("marks")
            assert [mark.name for one in books for mark in one.marks.all()][0] == own
            assert len(books) == count
            assert [mark.target for mark in Mark.objects.order_by("pk").prefetch_related("target")] == list(books)
            prefetch = GenericPrefetch("target", [Book.objects.all(), Shelf.objects.all()])
            assert Mark.objects.order_by("pk").prefetch_related(prefetch)[0].target == book
            assert Book.objects.filter(marks__name=own).get() == book
            assert Mark.objects.filter(book=book).get().name == own
            assert Shelf.objects.get().marks.count() == 0


def test_each_tenant_writes_its_own(kinds: Any, acme: Any, globex: Any) -> None:
    """add, create, get_or_create, update_or_create, set, remove, clear, their asynchronous twins, and deleting."""
    Mark, Book, _ = kinds
    with tenant_context(globex):
        before = list(Mark.objects.values_list("name", "content_type", "object_id"))
    with tenant_context(acme):
        first, second = Book.objects.order_by("pk")
        loose = Mark.objects.create(name="loose")
        second.marks.add(loose)
        first.marks.add(Mark(name="new"), bulk=False)
        first.marks.create(name="created")
        first.marks.get_or_create(name="got")
        first.marks.update_or_create(name="got", defaults={"name": "updated"})
        assert {mark.name for mark in first.marks.all()} == {"first of acme", "new", "created", "updated"}
        first.marks.set([loose])
        assert [mark.name for mark in first.marks.all()] == ["loose"]
        assert [mark.name for mark in second.marks.all()] == ["second of acme"]

        async def twins() -> list[str]:
            await second.marks.aadd(loose)
            await second.marks.acreate(name="async")
            await second.marks.aremove(loose)
            return sorted([mark.name async for mark in second.marks.all()])

        assert asyncio.run(twins()) == ["async", "second of acme"]
        first.marks.create(name="goes")
        first.delete()
        assert sorted(Mark.objects.values_list("name", flat=True)) == ["async", "second of acme"]
        second.marks.clear()
        assert Mark.objects.count() == 0
    with tenant_context(globex):
        assert list(Mark.objects.values_list("name", "content_type", "object_id")) == before


def test_instances_of_another_tenant_are_refused(kinds: Any, acme: Any, globex: Any) -> None:
    """By every method, and nothing is written: not to the row of the same key either."""
    Mark, Book, Shelf = kinds
    with tenant_context(acme):
        book, mark, shelf = Book.objects.first(), Mark.objects.first(), Shelf.objects.get()
        marks = book.marks
    with tenant_context(globex):
        ours, our_mark = Shelf.objects.get(), Mark.objects.get()
        before = list(Mark.objects.values_list("pk", "name", "content_type", "object_id"))
        assert mark.pk == our_mark.pk
        refused: list[Callable[[], Any]] = [
            lambda: ours.marks.add(mark),
            lambda: ours.marks.add(our_mark, mark),
            lambda: ours.marks.add(mark, bulk=False),
            lambda: ours.marks.remove(mark),
            lambda: ours.marks.set([mark]),
            lambda: ours.marks.set([mark], clear=True),
            lambda: asyncio.run(ours.marks.aadd(mark)),
            lambda: book.marks.all().count(),
            lambda: book.marks.add(our_mark),
            lambda: book.marks.create(name="x"),
            lambda: book.marks.clear(),
            lambda: marks.all().count(),
            lambda: marks.count(),
            lambda: marks.add(our_mark),
            lambda: marks.create(name="x"),
            lambda: marks.get_or_create(name="x"),
            lambda: marks.clear(),
            lambda: mark.target,
            lambda: Mark.objects.create(name="x", target=shelf),
            lambda: Mark.objects.bulk_create([Mark(name="x", target=shelf)]),
            lambda: Mark.objects.filter(book=book).count(),
            lambda: models.prefetch_related_objects([ours, shelf], "marks"),
            lambda: models.prefetch_related_objects([our_mark, mark], "target"),
            book.delete,
        ]
        for number, call in enumerate(refused):
            with pytest.raises(WrongTenant, match="'acme'"):
                call()
                pytest.fail(f"number {number} passed")
        with pytest.raises(WrongTenant, match="'acme'"):
            our_mark.target = shelf
            our_mark.save()
        assert list(Mark.objects.values_list("pk", "name", "content_type", "object_id")) == before
