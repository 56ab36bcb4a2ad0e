"""Each tenant has files, templates and static files of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage, storages
from django.core.management import call_command
from django.db import connection, models
from django.db.migrations.writer import MigrationWriter
from django.template import Engine, loader
from django.template.exceptions import TemplateDoesNotExist
from django.templatetags.static import static
from django.test import override_settings
from django.test.utils import isolate_apps

from pg_tenants import schema_context, tenant_context
from pg_tenants.context import bind
from pg_tenants.contrib.staticfiles import TenantStaticFilesStorage
from pg_tenants.contrib.storage import TenantFileSystemStorage, TenantStorage
from pg_tenants.exceptions import ConfigurationError, InvalidSchemaName, NoActiveTenant

OURS = "pg_tenants.contrib.storage"
BAD_NAMES = [
    "../globex/a.txt",
    "/globex/a.txt",
    "/etc/passwd",
    "a/../../globex/a.txt",
    "..",
    "..\\globex\\a.txt",
    "a\0b",
]


def settings_of(default: dict[str, Any], **others: Any) -> Any:
    static = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    return {"default": default, "staticfiles": static, **others}


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """Run a server that answers as S3 does."""
    pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            boto3.client("s3", endpoint_url=url, **KEYS).create_bucket(Bucket="media")
            yield url
        finally:
            server.terminate()


KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@pytest.fixture(params=["filesystem", "memory", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Make each storage, with folders of tenants, the default one."""
    name = str(request.param)
    entry: dict[str, Any] = {"BACKEND": f"{OURS}.TenantStorage"}
    if name == "filesystem":
        entry = {"BACKEND": f"{OURS}.TenantFileSystemStorage"}
    elif name == "memory":
        entry["OPTIONS"] = {"backend": "django.core.files.storage.InMemoryStorage"}
    else:
        url = request.getfixturevalue("s3_url")
        options = {"bucket_name": "media", "endpoint_url": url, "access_key": "key", "secret_key": "secret"}
        entry["OPTIONS"] = {
            "backend": "storages.backends.s3.S3Storage",
            "options": {**options, "region_name": "us-east-1", "file_overwrite": False},
        }
    with override_settings(STORAGES=settings_of(entry), MEDIA_ROOT=tmp_path, MEDIA_URL="/media/"):
        yield name
        if name == "s3":
            for schema in ("acme", "globex"):
                with schema_context(schema):
                    erase("")


def erase(folder: str) -> None:
    folders, files = default_storage.listdir(folder)
    for name in files:
        default_storage.delete(f"{folder}/{name}" if folder else name)
    for name in folders:
        erase(f"{folder}/{name}" if folder else name)


def content(name: str) -> bytes:
    with default_storage.open(name) as file:
        return bytes(file.read())


def test_each_schema_has_a_folder(backend: str, tmp_path: Path) -> None:
    """Files of one name live side by side; names have no trace of the folder; URLs have it."""
    for schema in ("acme", "globex"):
        with schema_context(schema):
            assert default_storage.save("notes/a.txt", ContentFile(schema.encode())) == "notes/a.txt"
    with schema_context("acme"):
        again = default_storage.save("notes/a.txt", ContentFile(b"second"))
        assert again.startswith("notes/a_")
        default_storage.save("only.txt", ContentFile(b"acme's"))
        assert content("notes/a.txt") == b"acme"
        assert default_storage.size("notes/a.txt") == 4
        assert default_storage.get_modified_time("notes/a.txt").tzinfo
        assert "/acme/notes/a.txt" in default_storage.url("notes/a.txt")
        assert sorted(default_storage.listdir("notes")[1]) == sorted(["a.txt", again.removeprefix("notes/")])
        assert default_storage.listdir("") == (["notes"], ["only.txt"])
    with schema_context("globex"):
        assert content("notes/a.txt") == b"globex"
        assert not default_storage.exists("only.txt")
        assert not default_storage.exists("globex/notes/a.txt")
        assert not default_storage.exists("acme/only.txt")
        assert default_storage.listdir("") == (["notes"], [])
        default_storage.delete("notes/a.txt")
        default_storage.delete("only.txt")
        assert not default_storage.exists("notes/a.txt")
    with schema_context("acme"):
        assert content("notes/a.txt") == b"acme"
        assert content("only.txt") == b"acme's"
    if backend == "filesystem":
        assert (tmp_path / "acme" / "only.txt").read_bytes() == b"acme's"
        with schema_context("acme"):
            assert default_storage.path("only.txt") == str(tmp_path / "acme" / "only.txt")
            assert default_storage.url("only.txt") == "/media/acme/only.txt"
            assert default_storage.get_created_time("only.txt")
            assert default_storage.get_accessed_time("only.txt")
    if backend == "s3":
        with schema_context("acme"), urllib.request.urlopen(default_storage.url("only.txt")) as answer:
            assert answer.read() == b"acme's"


def test_names_that_lead_out_are_refused(backend: str) -> None:
    """Whatever is to be done with them."""
    with schema_context("globex"):
        default_storage.save("a.txt", ContentFile(b"secret"))
    with schema_context("acme"):
        for name in BAD_NAMES:
            for method in ("open", "exists", "url", "delete", "size", "listdir", "path", "get_modified_time"):
                with pytest.raises(SuspiciousFileOperation):
                    getattr(default_storage, method)(name)
            with pytest.raises((SuspiciousFileOperation, ValueError)):
                default_storage.save(name, ContentFile(b"x"))
        for name in ("", "."):
            with pytest.raises(ValueError, match="name must be given"):
                default_storage.delete(name)
    with schema_context("globex"):
        assert content("a.txt") == b"secret"


def test_without_a_tenant_nothing_is_read_or_written(backend: str) -> None:
    """The error names the file and what to enter; a schema that is named has its folder."""
    for call in (
        lambda: default_storage.save("a.txt", ContentFile(b"x")),
        lambda: default_storage.open("a.txt"),
        lambda: default_storage.exists("a.txt"),
        lambda: default_storage.url("a.txt"),
        lambda: default_storage.delete("a.txt"),
        lambda: default_storage.listdir(""),
    ):
        with pytest.raises(NoActiveTenant, match=r"'(a\.txt)?'.*tenant_context"):
            call()
    with schema_context("public"):
        assert "/public/a.txt" in default_storage.url("a.txt")
    with schema_context("../acme"), pytest.raises(InvalidSchemaName):
        default_storage.url("a.txt")


def test_long_names_are_cut_as_without_folders(backend: str) -> None:
    """The field's length is the name's in the row."""
    with schema_context("acme"):
        names = [default_storage.save("n" * 40 + ".txt", ContentFile(b"x"), max_length=30) for _ in range(2)]
    assert len(set(names)) == 2
    assert all(len(name) <= 30 for name in names)


def test_one_instance_is_shared_by_threads(tmp_path: Path) -> None:
    """Each thread writes and reads its own tenant's file, hundreds of times."""
    storage = TenantFileSystemStorage(location=tmp_path, allow_overwrite=True)
    wrong: list[Any] = []

    def work(schema: str) -> None:
        for number in range(200):
            storage.save("a.txt", ContentFile(f"{schema} {number}".encode()))
            with storage.open("a.txt") as file:
                if file.read() != f"{schema} {number}".encode():
                    wrong.append(schema)

    threads = []
    for schema in ("acme", "globex", "initech"):
        with schema_context(schema):
            threads.append(threading.Thread(target=bind(work), args=(schema,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme", "globex", "initech"]


def test_migrations_can_name_them() -> None:
    """They are written as they were made."""
    assert "pg_tenants.contrib.storage.TenantFileSystemStorage(location='x')" in MigrationWriter.serialize(
        TenantFileSystemStorage(location="x")
    )
    text, _ = MigrationWriter.serialize(TenantStorage("a.B", {"c": 1}))
    assert text == "pg_tenants.contrib.storage.TenantStorage('a.B', {'c': 1})"


@isolate_apps("example_project.notes")
def test_a_file_field(acme: Any, globex: Any, tmp_path: Path) -> None:
    """Save, open, url and delete go to the tenant that is active, and rows have plain names."""

    class Paper(models.Model):  # noqa: DJ008
        file = models.FileField(upload_to="papers", storage=TenantFileSystemStorage(location=tmp_path, base_url="/m/"))

        class Meta:
            app_label = "notes"

    for tenant in (acme, globex):
        with tenant_context(tenant):
            with connection.schema_editor() as editor:
                editor.create_model(Paper)
            paper = Paper()
            paper.file.save("a b.txt", ContentFile(tenant.schema_name.encode()))
            assert paper.file.name == "papers/a_b.txt"
    for tenant in (acme, globex):
        with tenant_context(tenant):
            paper = Paper.objects.get()
            assert paper.file.url == f"/m/{tenant.schema_name}/papers/a_b.txt"
            with paper.file.open() as file:
                assert file.read() == tenant.schema_name.encode()
    with pytest.raises(NoActiveTenant):
        _ = paper.file.url
    with tenant_context(acme):
        Paper.objects.get().file.delete()
    assert not (tmp_path / "acme/papers/a_b.txt").exists()
    assert (tmp_path / "globex/papers/a_b.txt").exists()
    with tenant_context(globex), pytest.raises(SuspiciousFileOperation):
        Paper(file="../../acme/papers/x.txt").file.open()


# -- templates --------------------------------------------------------------------------------------------------------

LOADER = "pg_tenants.contrib.templates.Loader"
CACHED = "django.template.loaders.cached.Loader"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Make templates for all, and some for acme and globex."""
    write(tmp_path / "all/page.html", "page of all{% block more %}{% endblock %}, {% include 'part.html' %}")
    write(tmp_path / "all/part.html", "part of all")
    write(tmp_path / "tenants/acme/page.html", "{% extends 'page.html' %}{% block more %} and acme{% endblock %}")
    write(tmp_path / "tenants/globex/part.html", "part of globex")
    write(tmp_path / "tenants/globex/secret.html", "secret")
    return tmp_path


def templates(folders: Path, loaders: list[Any]) -> Any:
    options = {"loaders": loaders}
    backend = "django.template.backends.django.DjangoTemplates"
    return override_settings(TEMPLATES=[{"BACKEND": backend, "DIRS": [folders / "all"], "OPTIONS": options}])


def ours(folders: Path) -> list[Any]:
    return [(LOADER, [folders / "tenants"]), (CACHED, ["django.template.loaders.filesystem.Loader"])]


def render(schema: str | None, name: str = "page.html") -> str:
    if schema is None:
        return str(loader.render_to_string(name))
    with schema_context(schema):
        return str(loader.render_to_string(name))


def test_a_tenants_templates_come_first(folders: Path) -> None:
    """Also those that are extended and included, beside Django's cached loader and in any order of tenants."""
    with templates(folders, ours(folders)):
        for _ in range(3):
            assert render("acme") == "page of all and acme, part of all"
            assert render("globex") == "page of all, part of globex"
            assert render("initech") == "page of all, part of all"
            assert render(None) == "page of all, part of all"
            assert render("globex", "secret.html") == "secret"
            for schema in ("acme", None):
                with pytest.raises(TemplateDoesNotExist):
                    render(schema, "secret.html")


def test_a_template_is_compiled_once_and_again_when_it_changes(folders: Path) -> None:
    """So that a tenant's new one is served without a restart; a deleted one is not."""
    with templates(folders, ours(folders)):
        with schema_context("globex"):
            first = loader.get_template("part.html").template  # type: ignore[attr-defined]
            assert loader.get_template("part.html").template is first  # type: ignore[attr-defined]
        path = write(folders / "tenants/globex/part.html", "another part")
        assert render("globex") == "page of all, another part"
        path.unlink()
        assert render("globex") == "page of all, part of all"
        write(path, "a third")
        assert render("globex", "part.html") == "a third"
        for engine_loader in Engine.get_default().template_loaders:
            engine_loader.reset()
        assert render("globex", "part.html") == "a third"


def test_names_that_lead_to_another_tenant(folders: Path) -> None:
    """There is no such template."""
    with templates(folders, ours(folders)):
        for name in (
            "../globex/secret.html",
            str(folders / "tenants/globex/secret.html"),
            "x/../../globex/secret.html",
        ):
            with pytest.raises(TemplateDoesNotExist):
                render("acme", name)
        with pytest.raises(InvalidSchemaName):
            render("acme/../globex", "secret.html")


def test_inside_djangos_cached_loader_it_refuses(folders: Path) -> None:
    """That one would serve a tenant's template to all: the error says where to put it."""
    with templates(folders, [(CACHED, ours(folders)[:1])]):
        with pytest.raises(ConfigurationError, match=r"OPTIONS\['loaders'\] itself"):
            render("acme")
        with pytest.raises(ConfigurationError):
            render(None)


# -- static files -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["TenantStaticFilesStorage", "TenantManifestStaticFilesStorage"])
def static_root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Collect static files for all and for acme."""
    write(tmp_path / "all/logo.svg", "logo of all")
    write(tmp_path / "all/only.svg", "only of all")
    write(tmp_path / "own/acme/logo.svg", "logo of acme")
    staticfiles = {"BACKEND": f"pg_tenants.contrib.staticfiles.{request.param}"}
    with override_settings(
        STORAGES={**settings_of({"BACKEND": f"{OURS}.TenantFileSystemStorage"}), "staticfiles": staticfiles},
        STATIC_ROOT=tmp_path / "collected",
        STATIC_URL="/static/",
        STATICFILES_DIRS=[tmp_path / "all", ("tenants", tmp_path / "own")],
        STATICFILES_FINDERS=["django.contrib.staticfiles.finders.FileSystemFinder"],
    ):
        call_command("collectstatic", interactive=False, verbosity=0)
        yield tmp_path


def served(name: str) -> str:
    url = static(name)
    assert url.startswith("/static/")
    return (Path(storages["staticfiles"].location) / url.removeprefix("/static/")).read_text()  # type: ignore[attr-defined]


def test_a_tenants_static_files_come_first(static_root: Path) -> None:
    """Where there is one; with a manifest too."""
    with schema_context("acme"):
        assert served("logo.svg") == "logo of acme"
        assert served("only.svg") == "only of all"
        if hasattr(storages["staticfiles"], "hashed_files"):
            assert static("logo.svg#part").endswith("#part")
            assert "/tenants/acme/logo" in static("logo.svg#part")
    for schema in ("globex", "public"):
        with schema_context(schema):
            assert served("logo.svg") == "logo of all"
    assert served("logo.svg") == "logo of all"


def test_in_debug_mode_nothing_need_be_collected(static_root: Path) -> None:
    """The development server finds the files where they are."""
    write(static_root / "own/globex/only.svg", "only of globex")
    with override_settings(DEBUG=True):
        with schema_context("globex"):
            assert static("only.svg") == "/static/tenants/globex/only.svg"
            assert static("logo.svg") == "/static/logo.svg"


def test_another_folder_for_static_files(tmp_path: Path) -> None:
    """As the options say."""
    write(tmp_path / "customers/acme/logo.svg", "logo of acme")
    storage = TenantStaticFilesStorage(location=tmp_path, base_url="/static/", tenants="customers")
    with schema_context("acme"):
        assert storage.url("logo.svg") == "/static/customers/acme/logo.svg"
        for name in ("other.svg", "../acme/logo.svg", "", "folder/"):
            assert "customers" not in storage.url(name)
