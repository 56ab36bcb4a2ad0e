"""Instances belong to the tenant that they were loaded from (hazard 15)."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import connection, models, router, transaction
from django.test.utils import CaptureQueriesContext, isolate_apps

from example_project.billing.models import Invoice
from example_project.customers.models import Domain
from example_project.notes.models import Note, Tag
from pg_tenants import schema_context, tenant_context
from pg_tenants.exceptions import WrongTenant
from pg_tenants.instances import TenantAlias


@pytest.fixture
def theirs(acme: Any, globex: Any) -> Any:
    """Return a note of acme, with a tag, whose id a note of globex has as well."""
    with tenant_context(globex):
        Note.objects.get().tags.add(Tag.objects.create(name="globex"))
    with tenant_context(acme):
        note = Note.objects.get()
        note.tags.add(Tag.objects.create(name="acme"))
    return note


def titles() -> list[str]:
    return list(Note.objects.order_by("title").values_list("title", flat=True))


def run(function: Callable[[], Any]) -> Any:
    """Run an asynchronous function and close the connections of its threads."""
    from asgiref.sync import sync_to_async
    from django.db import connections

    async def main() -> Any:
        try:
            return await function()
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(main())


METHODS: dict[str, Callable[[Any], Any]] = {
    "save": lambda note: note.save(),
    "save_using": lambda note: note.save(using="default"),
    "save_using_its_own": lambda note: note.save(using=note._state.db),
    "save_fields": lambda note: note.save(update_fields=["title"]),
    "save_base": lambda note: note.save_base(raw=True),
    "force_insert": lambda note: note.save(force_insert=True),
    "asave": lambda note: run(note.asave),
    "delete": lambda note: note.delete(),
    "delete_using": lambda note: note.delete(using="default"),
    "adelete": lambda note: run(note.adelete),
    "refresh": lambda note: note.refresh_from_db(),
    "refresh_using": lambda note: note.refresh_from_db(using="default"),
    "refresh_from_queryset": lambda note: note.refresh_from_db(from_queryset=Note.objects.all()),
    "arefresh": lambda note: run(note.arefresh_from_db),
    "bulk_create": lambda note: Note.objects.bulk_create([note]),
    "bulk_create_conflicts": lambda note: Note.objects.bulk_create(
        [note], update_conflicts=True, unique_fields=["id"], update_fields=["title"]
    ),
    "bulk_update": lambda note: Note.objects.bulk_update([note], ["title"]),
    "abulk_update": lambda note: run(lambda: Note.objects.abulk_update([note], ["title"])),
    "forward": lambda note: note.author,
    "forward_many": lambda note: list(note.tags.all()),
    "m2m_add_to": lambda note: note.tags.add(1),
    "m2m_remove_from": lambda note: note.tags.remove(1),
    "m2m_clear": lambda note: note.tags.clear(),
    "m2m_set": lambda note: note.tags.set([]),
    "m2m_create": lambda note: note.tags.create(name="new"),
}


@pytest.mark.parametrize("name", METHODS)
def test_refused_in_another_tenant(theirs: Any, globex: Any, name: str) -> None:
    """Each way to write or follow an instance names it, its tenant, the active one and the remedy; nothing is done."""
    theirs.title = "moved"
    with tenant_context(globex):
        with pytest.raises(WrongTenant, match=r"notes\.Note.*'acme'.*'globex'.*context of 'acme'"):
            METHODS[name](theirs)
        assert titles() == ["note of globex"]
        assert list(Note.objects.get().tags.values_list("name", flat=True)) == ["globex"]


@pytest.mark.parametrize("name", ["save", "delete", "refresh", "forward_many"])
def test_refused_without_a_tenant(theirs: Any, name: str) -> None:
    """Where nothing is active, the error says so."""
    with pytest.raises(WrongTenant, match=r"'acme', and no tenant is active"):
        METHODS[name](theirs)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("bulk_create", "force", "delete"))])
def test_allowed_in_its_own(theirs: Any, acme: Any, name: str) -> None:
    """The same calls do their work at home."""
    if name == "adelete":
        return
    with tenant_context(acme):
        METHODS[name](theirs)


RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "assign": lambda ours, theirs: setattr(ours, "author", theirs.author),
    "new": lambda ours, theirs: Note(title="new", author=theirs.author),
    "create": lambda ours, theirs: Note.objects.create(title="new", author=theirs.author),
    "update": lambda ours, theirs: Note.objects.update(author=theirs.author),
    "filter": lambda ours, theirs: Note.objects.filter(author=theirs.author),
    "filter_in": lambda ours, theirs: Note.objects.filter(author__in=[theirs.author]),
    "exclude": lambda ours, theirs: Note.objects.exclude(author=theirs.author),
    "get_or_create": lambda ours, theirs: Note.objects.get_or_create(
        title="new", defaults={"body": "", "author": theirs.author}
    ),
    "update_or_create": lambda ours, theirs: Note.objects.update_or_create(
        title="note of globex", defaults={"author": theirs.author}
    ),
    "reverse_add": lambda ours, theirs: ours.author.notes.add(theirs),
    "reverse_add_saving": lambda ours, theirs: ours.author.notes.add(theirs, bulk=False),
    "reverse_set": lambda ours, theirs: ours.author.notes.set([theirs]),
    "reverse_all": lambda ours, theirs: list(theirs.author.notes.all()),
    "reverse_create": lambda ours, theirs: theirs.author.notes.create(title="new"),
    "m2m_add": lambda ours, theirs: ours.tags.add(theirs.tag),
    "m2m_remove": lambda ours, theirs: ours.tags.remove(theirs.tag),
    "m2m_set": lambda ours, theirs: ours.tags.set([theirs.tag]),
    "m2m_set_by_name": lambda ours, theirs: ours.tags.set(objs=[theirs.tag]),
    "m2m_aset": lambda ours, theirs: run(lambda: ours.tags.aset([theirs.tag])),
    "m2m_reverse_add": lambda ours, theirs: theirs.tag.notes.add(ours),
    "m2m_reverse_remove": lambda ours, theirs: ours.tags.get().notes.remove(theirs),
    "bulk_create": lambda ours, theirs: Note.objects.bulk_create([Note(title="new", author=theirs.author)]),
    "groups": lambda ours, theirs: theirs.author.groups.all().count(),
    "permissions": lambda ours, theirs: theirs.author.has_perm("notes.add_note"),
    "prefetch": lambda ours, theirs: models.prefetch_related_objects([theirs], "tags"),
    "using": lambda ours, theirs: Note.objects.using(theirs._state.db).count(),
    "instances_alias": lambda ours, theirs: Note.objects.using(theirs._state.db).create(title="new"),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_between_tenants_are_refused(theirs: Any, acme: Any, globex: Any, name: str) -> None:
    """By foreign keys, many to many, from both sides, and as values in queries."""
    with tenant_context(acme):
        theirs.author, theirs.tag = User.objects.get(), Tag.objects.get()
    with tenant_context(globex):
        ours = Note.objects.get()
        with pytest.raises(WrongTenant, match="'acme'"):
            RELATIONS[name](ours, theirs)
        assert titles() == ["note of globex"]
        assert list(Note.objects.get().tags.values_list("name", flat=True)) == ["globex"]


def test_an_assignment_outside_is_refused_when_saved(acme: Any, globex: Any) -> None:
    """A relation that was made while nothing was active is seen at the latest when the instance is saved."""
    with tenant_context(acme):
        author = User.objects.get()
    note = Note(title="new", author=author)
    with tenant_context(globex):
        with pytest.raises(WrongTenant, match=r"auth\.User.*'acme'"):
            note.save()
        with pytest.raises(WrongTenant, match=r"auth\.User.*'acme'"):
            Note.objects.bulk_create([note])
    with tenant_context(acme):
        note.save()
        assert "new" in titles()


@pytest.mark.parametrize("read", [False, True])
def test_a_query_does_not_contain_the_row_of_another_tenant(theirs: Any, globex: Any, read: bool) -> None:
    """contains() would find its own row of the same key, in the database and among rows that were read."""
    with tenant_context(globex):
        notes = Note.objects.all()
        assert not read or len(notes) == 1
        assert notes.contains(Note.objects.get())
        with pytest.raises(WrongTenant, match="loaded from the schema 'acme'"):
            notes.contains(theirs)


@pytest.mark.parametrize("name", ["author", "tags"])
def test_related_objects_of_instances_from_two_tenants(theirs: Any, globex: Any, name: str) -> None:
    """They are not prefetched together: the same keys would give one tenant's to the other's instances."""
    with tenant_context(globex):
        own = Note.objects.get()
        assert own.pk == theirs.pk
        for instances in ([own, theirs], [theirs, own]):
            with pytest.raises(WrongTenant, match="loaded from the schema 'acme'"):
                models.prefetch_related_objects(instances, name)
        models.prefetch_related_objects([own, Note.objects.get()], name)


def test_a_query_may_be_made_before_its_tenant_is_active(acme: Any) -> None:
    """It runs in the tenant that is active when it is sent."""
    with tenant_context(acme):
        author = User.objects.get()
    notes = Note.objects.filter(author=author)
    with tenant_context(acme):
        assert [note._state.db.schema for note in notes] == ["acme"]


@contextmanager
def _isolated() -> Iterator[tuple[Any, Any, Any]]:
    with isolate_apps("example_project.notes"):

        class Mark(models.Model):  # noqa: DJ008
            content_type = models.ForeignKey(ContentType, models.CASCADE, related_name="+")
            object_id = models.IntegerField()
            target = GenericForeignKey()

            class Meta:
                app_label = "notes"

        class Book(models.Model):  # noqa: DJ008
            marks = GenericRelation(Mark)

            class Meta:
                app_label = "notes"

        class Chapter(models.Model):  # noqa: DJ008
            book = models.ForeignKey(Book, models.CASCADE, null=True, related_name="chapters")

            class Meta:
                app_label = "notes"

        yield Mark, Book, Chapter


def _make_tables(*found: Any) -> None:
    with connection.schema_editor() as editor:
        for model in found:
            editor.create_model(model)


def test_generic_relations(acme: Any, globex: Any) -> None:
    """GenericForeignKey, its reverse manager, and a nullable foreign key's remove()."""
    with _isolated() as (Mark, Book, Chapter):
        found: dict[str, Any] = {}
        for tenant in (acme, globex):
            with tenant_context(tenant):
                _make_tables(Mark, Book, Chapter)
                book, tag = Book.objects.create(), Tag.objects.create(name="tag")
                chapter = Chapter.objects.create(book=book)
                mark = Mark.objects.create(target=tag)
                assert Mark.objects.get(pk=mark.pk).target == tag
                found[tenant.schema_name] = (book, chapter, mark, tag)
        book, chapter, mark, tag = found["acme"]
        ours, _, our_mark, our_tag = found["globex"]
        with tenant_context(acme):
            read = Mark.objects.get()
        with tenant_context(globex):
            refused: list[Callable[[], Any]] = [
                lambda: Mark(target=tag),
                lambda: Mark.objects.create(target=tag),
                lambda: setattr(our_mark, "target", tag),
                lambda: read.target,
                lambda: ours.marks.add(mark),
                lambda: ours.marks.remove(mark),
                lambda: ours.marks.set([mark]),
                lambda: book.marks.all().count(),
                lambda: ours.chapters.remove(chapter),
                lambda: ours.chapters.add(chapter),
                lambda: ours.chapters.set([chapter]),
                lambda: book.chapters.clear(),
            ]
            for call in refused:
                with pytest.raises(WrongTenant, match="'acme'"):
                    call()
            our_mark.target = our_tag
            our_mark.save()
            ours.marks.set([our_mark])
            ours.chapters.set([])
            assert Chapter.objects.get().book is None
        with tenant_context(acme):
            assert Chapter.objects.get().book == book


# -- copying ----------------------------------------------------------------------------------------------------------


def test_the_copy_idiom_works(acme: Any, globex: Any) -> None:
    """Django's own way to copy an instance copies it into the active tenant, where it then belongs."""
    with tenant_context(acme):
        note = Note.objects.get()
    with tenant_context(globex):
        note.pk, note._state.adding = None, True
        note.author = User.objects.get()
        note.save()
        assert titles() == ["note of acme", "note of globex"]
        note.tags.add(Tag.objects.create(name="copied"))
        note.title = "changed"
        note.save()
        note.refresh_from_db()
    with tenant_context(acme):
        assert titles() == ["note of acme"]
        with pytest.raises(WrongTenant, match=r"'globex'.*'acme'"):
            note.save()


def test_a_copy_with_a_relation_of_the_other_tenant_is_refused(acme: Any, globex: Any) -> None:
    """The row would refer to whoever has that id there."""
    with tenant_context(acme):
        note = Note.objects.select_related("author").get()
    with tenant_context(globex):
        note.pk, note._state.adding = None, True
        with pytest.raises(WrongTenant, match=r"auth\.User"):
            note.save()


def test_copies_in_bulk(acme: Any, globex: Any) -> None:
    """bulk_create() marks what it makes, and takes instances marked as new."""
    with tenant_context(acme):
        tags = Tag.objects.bulk_create([Tag(name=name) for name in "abc"])
    assert {tag._state.db.schema for tag in tags} == {"acme"}
    with tenant_context(globex):
        with pytest.raises(WrongTenant):
            Tag.objects.bulk_create(tags)
        for tag in tags:
            tag.pk, tag._state.adding = None, True
        Tag.objects.bulk_create(tags)
        assert {tag._state.db.schema for tag in tags} == {"globex"}
        assert Tag.objects.count() == 3


# -- who has a mark ---------------------------------------------------------------------------------------------------


READS: dict[str, Callable[[], Any]] = {
    "get": lambda: Note.objects.get(),
    "using": lambda: Note.objects.using("default").get(),
    "raw": lambda: Note.objects.raw("SELECT * FROM notes_note")[0],
    "raw_using": lambda: Note.objects.raw("SELECT * FROM notes_note").using("default")[0],
    "iterator": lambda: next(Note.objects.iterator()),
    "select_related": lambda: Note.objects.select_related("author").get().author,
    "forward": lambda: Note.objects.get().author,
    "reverse": lambda: User.objects.get().notes.get(),
    "prefetched": lambda: User.objects.prefetch_related("notes").get().notes.all()[0],
    "only": lambda: Note.objects.only("title").get(),
    "in_bulk": lambda: next(iter(Note.objects.in_bulk().values())),
    "earliest": lambda: Note.objects.earliest("pk"),
    "aget": lambda: run(Note.objects.aget),
    "afirst": lambda: run(Note.objects.afirst),
    "locked": lambda: _locked(),
    "created": lambda: Note.objects.create(title="x", author=User.objects.get()),
    "saved": lambda: _saved(Note(title="x", author_id=User.objects.get().pk)),
    "saved_using": lambda: _saved(Note(title="x", author_id=User.objects.get().pk), using="default"),
    "bulk": lambda: Note.objects.bulk_create([Note(title="x", author=User.objects.get())])[0],
    "refreshed": lambda: _refreshed(Note.objects.get()),
    "pickled": lambda: pickle.loads(pickle.dumps(Note.objects.get())),
    "deep": lambda: copy.deepcopy(Note.objects.get()),
    "pickled_queryset": lambda: pickle.loads(pickle.dumps(Note.objects.all()))[0],
}


def _locked() -> Any:
    with transaction.atomic():
        return Note.objects.select_for_update().get()


def _saved(note: Any, **kwargs: Any) -> Any:
    note.save(**kwargs)
    return note


def _refreshed(note: Any) -> Any:
    note.refresh_from_db()
    return note


@pytest.mark.parametrize("name", READS)
def test_every_way_to_get_an_instance_marks_it(acme: Any, globex: Any, name: str) -> None:
    """It knows its schema, and its alias is still the alias."""
    with tenant_context(acme):
        instance = READS[name]()
    assert (instance._state.db, instance._state.db.schema) == ("default", "acme")
    assert hash(instance._state.db) == hash("default")
    with tenant_context(globex), pytest.raises(WrongTenant):
        instance.save()


def test_a_query_is_marked_when_it_is_sent(acme: Any, globex: Any) -> None:
    """One queryset may be evaluated in several tenants, also where it has a database's name."""
    query = Note.objects.using(router.db_for_read(Note)).all()
    for tenant in (acme, globex):
        with tenant_context(tenant):
            assert [(note.title, note._state.db.schema) for note in query.all()] == [
                (f"note of {tenant.schema_name}", tenant.schema_name)
            ]


def test_the_connection_keeps_its_plain_alias(acme: Any) -> None:
    """A connection that is opened for a tenant's query serves all tenants."""
    connection.close()
    with tenant_context(acme):
        Note.objects.get()
    assert type(connection.alias) is str


def test_shared_instances_are_at_home_everywhere(acme: Any, globex: Any) -> None:
    """What is in fixed modules alone has no tenant, wherever it was read."""
    with tenant_context(acme):
        domain = Domain.objects.select_related("tenant").get(tenant__schema_name="acme")
        invoice = Invoice.objects.create(tenant_id=acme.pk, number="1", issued_on="2026-01-01", due_on="2026-01-02")
    with tenant_context(globex):
        domain.tenant.name = "changed"
        domain.tenant.save()
        domain.refresh_from_db()
        assert domain.tenant.name == "changed"
        assert list(domain.tenant.domains.all()) == [domain]
        assert type(domain._state.db) is str
        invoice.lines.create(description="line", quantity=1, unit_price=1)
        invoice.save()
        invoice.full_clean(exclude=["customer_name", "currency"])
    invoice.delete()


def test_the_schema_counts_and_not_the_context(acme: Any) -> None:
    """A tenant that was made active by its schema's name is the same one."""
    with tenant_context(acme):
        note = Note.objects.get()
    with schema_context("acme"):
        note.save()
        note.refresh_from_db()


def test_a_second_alias(acme: Any, globex: Any, make_alias: Any) -> None:
    """An instance may move between aliases of one tenant, and an alias bound to a schema counts as that schema."""
    make_alias("replica")
    make_alias("of_acme", tenants={"schema": "acme"})
    with tenant_context(acme):
        Note.objects.using("replica").get().save(using="default")
    note = Note.objects.using("of_acme").get()
    note.refresh_from_db()
    note.save()
    assert note._state.db == TenantAlias.of("of_acme", "acme")
    with tenant_context(acme):
        note.save(using="default")
        note = Note.objects.using("of_acme").get()
    with tenant_context(globex):
        note.save()
        with pytest.raises(WrongTenant):
            note.save(using="default")
        with pytest.raises(WrongTenant):
            Note.objects.using("default").bulk_update([note], ["title"])
        assert titles() == ["note of globex"]


def test_deletes_stay_fast(acme: Any) -> None:
    """No signal is listened to, so deleting rows without dependants reads none of them (hazard 24)."""
    with tenant_context(acme):
        with CaptureQueriesContext(connection) as queries:
            Session.objects.all().delete()
        assert [query["sql"].split()[0] for query in queries] == ["BEGIN", "DELETE", "COMMIT"]
