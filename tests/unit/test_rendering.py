"""States that render late are what Django's are, whoever looks at them and whenever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import migrations, models
from django.db.migrations.migration import Migration
from django.db.migrations.state import ProjectState, StateApps

from pg_tenants.migrations._rendering import LazyState, _looks_ahead, rendering_late


def _create(name: str, *fields: tuple[str, models.Field], **more: Any) -> migrations.CreateModel:
    return migrations.CreateModel(name, [("id", models.AutoField(primary_key=True)), *fields], **more)


def _to(name: str, **more: Any) -> models.ForeignKey:
    return models.ForeignKey(name, models.CASCADE, **more)


OPERATIONS = [
    _create("Author", ("name", models.CharField(max_length=10, unique=True))),
    _create("Book", ("author", _to("lib.Author")), ("parent", _to("self", null=True))),
    _create("Shelf", ("books", models.ManyToManyField("lib.Book"))),
    _create("Loan", ("book", _to("lib.Book", related_name="loans"))),
    migrations.CreateModel(
        "Comic",
        [("book_ptr", models.OneToOneField("lib.Book", models.CASCADE, parent_link=True, primary_key=True))],
        bases=("lib.book",),
    ),
    migrations.CreateModel("Prose", [], options={"proxy": True}, bases=("lib.book",)),
    migrations.AddField("Author", "born", models.DateField(null=True)),
    migrations.AddField("Author", "best", _to("lib.Book", null=True, related_name="+")),
    migrations.AlterField("Loan", "book", _to("lib.Book", related_name="lent")),
    migrations.AlterField("Author", "born", models.IntegerField(null=True)),
    migrations.AddField("Shelf", "first", _to("lib.Prose", null=True, related_name="shelves")),
    migrations.AddField("Shelf", "owner", _to("lib.Author", to_field="name", null=True)),
    migrations.AlterField("Author", "name", models.CharField(max_length=20, unique=True)),
    migrations.RenameField("Author", "born", "year"),
    migrations.RenameField("Author", "name", "title"),
    migrations.AlterModelOptions("Book", {"default_related_name": "works", "ordering": ["id"]}),
    migrations.RenameModel("Loan", "Lending"),
    migrations.AlterUniqueTogether("Lending", {("book", "id")}),
    migrations.AddIndex("Lending", models.Index(fields=["book"], name="lending_book")),
    migrations.AddConstraint("Book", models.CheckConstraint(condition=models.Q(id__gt=0), name="positive")),
    migrations.RemoveConstraint("Book", "positive"),
    migrations.RemoveIndex("Lending", "lending_book"),
    migrations.RemoveField("Author", "best"),
    migrations.RemoveField("Shelf", "books"),
    migrations.DeleteModel("Comic"),
    migrations.AlterField("Book", "id", models.BigAutoField(primary_key=True)),
    migrations.DeleteModel("Lending"),
]


def _seen(apps: StateApps) -> dict[str, Any]:
    """Return all that can be seen of models: their fields and ways back, and that each leads to a registered model."""
    found: dict[str, Any] = {}
    registered = {model._meta.label: model for model in apps.get_models(include_auto_created=True)}
    for label, model in registered.items():
        for field in model._meta.get_fields(include_hidden=True):
            if field.is_relation:
                assert field.related_model is registered[field.related_model._meta.label], (label, field.name)
        fields = {field.name: field.db_parameters for field in model._meta.concrete_fields}
        ways_back = {
            name
            for name in dir(model)
            if "Descriptor" in type(vars(model).get(name)).__name__ or hasattr(vars(model).get(name), "related")
        }
        hidden = sorted(field.name for field in model._meta.get_fields(include_hidden=True))
        found[label] = (sorted(fields), sorted(ways_back), hidden, model._meta.db_table, model._meta.ordering)
    return found


@pytest.mark.parametrize("looks", ["never", "at the model", "at all", "at some"])
def test_same_as_django(looks: str) -> None:
    """Whatever was rendered on the way, all models are then as Django renders them in one go."""
    state: ProjectState = LazyState.of(ProjectState())
    for number, operation in enumerate(OPERATIONS):
        assert isinstance(state, LazyState)
        before = state.clone()
        operation.state_forwards("lib", state)
        if looks == "at the model":
            name = getattr(operation, "model_name", None) or getattr(operation, "new_name", None) or operation.name
            if ("lib", name.lower()) in state.models:
                state.apps.get_model("lib", name)
        if looks == "at all" or (looks == "at some" and number % 3 == 0):
            fresh = ProjectState(models={key: each.clone() for key, each in state.models.items()})
            state.clear_delayed_apps_cache()
            assert _seen(state.apps) == _seen(fresh.apps), operation
            for key in before.models:
                model = before.apps.get_model(*key)
                assert {each.name for each in model._meta.local_fields} == set(before.models[key].fields) - _many(
                    before, key
                )
    fresh = ProjectState(models={key: each.clone() for key, each in state.models.items()})
    assert _seen(state.apps) == _seen(fresh.apps)


def _many(state: ProjectState, key: tuple[str, str]) -> set[str]:
    return {name for name, field in state.models[key].fields.items() if field.many_to_many}


class _Migration(Migration):
    operations: list[Any] = []


def _applied(state: ProjectState, *operations: Any, cls: type[Migration] = _Migration) -> ProjectState:
    migration = cls("0001_test", "lib")
    migration.operations = list(operations)  # type: ignore[misc]
    editor = SimpleNamespace(atomic_migration=True, connection=SimpleNamespace(alias="default"))
    return rendering_late(migration).apply(state, editor)


class _Looks(migrations.RunSQL):
    """An operation of somebody's own."""

    def __init__(self, seen: list[Any]):
        super().__init__("")
        self.seen = seen

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self.seen += [type(from_state), type(to_state), type(to_state.apps)]


def _state() -> ProjectState:
    state = LazyState.of(ProjectState())
    for operation in OPERATIONS[:4]:
        operation.state_forwards("lib", state)
    return state


def test_operations_of_others() -> None:
    """An operation that is not known, and a migration that applies itself, get Django's own states."""
    seen: list[Any] = []

    class Own(_Migration):
        def apply(self, project_state: Any, schema_editor: Any, collect_sql: bool = False) -> Any:
            seen.append(type(project_state))
            return project_state

    assert type(_applied(_state(), _Looks(seen))) is ProjectState
    _applied(_state(), cls=Own)
    assert seen == [ProjectState, ProjectState, StateApps, ProjectState]


def test_python_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of RunPython finds each model, one class of it, and the ways back between them."""
    monkeypatch.setattr("django.db.router.allow_migrate", lambda *args, **hints: True)

    def look(apps: Any, schema_editor: Any) -> None:
        author, book = apps.get_model("lib", "Author"), apps.get_model("lib.Book")
        assert author.book_set.rel.related_model is book
        assert [each.related_model for each in author._meta.related_objects] == [book]
        assert apps.get_app_config("lib").get_model("loan")._meta.get_field("book").related_model is book

    state = _state()
    state.apps.get_model("lib", "Author")
    state = _applied(state, migrations.RunPython(look))
    assert isinstance(state, LazyState)


def test_referred_field() -> None:
    """A field that foreign keys refer to is altered on Django's own states, since theirs are altered, too."""
    state = _state()
    migrations.AddField("Loan", "who", _to("lib.Author", to_field="name", null=True)).state_forwards("lib", state)

    def known(operation: Any) -> bool:
        return _looks_ahead(state, "lib", operation)

    assert not known(migrations.AlterField("Author", "name", models.TextField(unique=True)))
    assert not known(migrations.AlterField("Author", "id", models.BigAutoField(primary_key=True)))
    assert not known(migrations.RenameField("Author", "name", "title"))
    assert known(migrations.AlterField("Book", "parent", _to("lib.Book", null=True)))
