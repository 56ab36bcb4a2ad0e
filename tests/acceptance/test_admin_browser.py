"""The example's admin, used in a browser as a person uses it: from the login to the deletion of a tenant."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance._documents import CHECKOUT, free_port
from tests.projects.probe import new_database

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
# Where to keep what the browser showed, for somebody to look at.
PICTURES = os.environ.get("PG_TENANTS_TEST_PICTURES")

pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def port(server_params: dict[str, Any]) -> Iterator[int]:
    """Serve the example project on a database of its own, with an administrator in public and in acme."""
    with new_database(server_params, "browser") as environ:
        environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
        environ.pop("PG_TENANTS_TEST_DATA", None)

        def manage(*args: str) -> None:
            command = [sys.executable, "manage.py", *args]
            done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

        manage("migrate", "--verbosity", "0")
        manage("create_tenant", "globex", "--domain", "globex.localhost", "--set", "name=Globex")
        for schema, user in (("public", "root"), ("globex", "boss")):
            code = (
                "from django.contrib.auth.models import User; from pg_tenants import schema_context;"
                f"schema_context({schema!r}).__enter__();"
                f"User.objects.create_superuser({user!r}, password='secret-1')"
            )
            manage("shell", "-c", code)
        port = free_port()
        command = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
        server = subprocess.Popen(
            command, cwd=CHECKOUT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield port
        finally:
            server.terminate()
            server.wait(timeout=30)


class Person:
    """Somebody in front of a browser."""

    def __init__(self, driver: Any, port: int):
        self.driver, self.port = driver, port

    def go(self, path: str = "/", host: str = "localhost") -> None:
        self.driver.get(f"http://{host}:{self.port}{path}")

    def status(self, host: str, path: str = "/") -> int:
        """Open a page, and return the status of the answer."""
        self.go(path, host)
        return int(self.driver.execute_script("return performance.getEntriesByType('navigation')[0].responseStatus"))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self) -> str:
        return str(self.one("body").text)

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            field = self.one(f"[name='{name.replace('__', '-')}']")
            field.clear()
            field.send_keys(value)

    def press(self, selector: str) -> None:
        """Press what leads to another page, and wait for it."""
        page = self.one("html")
        self.one(selector).click()
        self.until(lambda: self._is_gone(page))

    @staticmethod
    def _is_gone(element: Any) -> bool:
        from selenium.common.exceptions import WebDriverException

        try:
            return not element.is_enabled()
        except WebDriverException:
            return True

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def sign_in(self, user: str, password: str = "secret-1", host: str = "localhost") -> None:
        self.go("/admin/", host)
        self.fill(username=user, password=password)
        self.press("[type=submit]")

    def act(self, action: str, name: str) -> None:
        """Choose an action for one tenant of the list."""
        self.go("/admin/customers/tenant/")
        row = self.driver.find_element("xpath", f"//tr[.//a[text()='{name}']]")
        row.find_element("css selector", "input.action-select").click()
        self.one(f"select[name=action] option[value={action}]").click()
        self.press("button[name=index], .actions button[type=submit]")

    def label(self, name: str) -> str:
        """Return the status that the list shows."""
        self.go("/admin/customers/tenant/")
        row = self.driver.find_element("xpath", f"//tr[.//a[text()='{name}']]")
        return str(row.find_element("css selector", ".pg-tenants-status").get_attribute("data-status"))

    def picture(self, name: str) -> None:
        if PICTURES:
            self.driver.save_screenshot(str(Path(PICTURES) / f"{name}.png"))


@pytest.fixture
def person(port: int) -> Iterator[Person]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_page_load_timeout(60)
    found = Person(driver, port)
    try:
        found.until(lambda: _answers(found))
        yield found
    finally:
        with contextlib.suppress(OSError):
            driver.quit()


def _answers(person: Person) -> bool:
    from selenium.common.exceptions import WebDriverException

    try:
        return person.status("localhost") == 200
    except WebDriverException:
        return False


def test_a_tenants_life(person: Person) -> None:
    """Made in the admin, opened on its domain, suspended, resumed, and deleted with its schema."""
    person.sign_in("root")
    person.picture("index")
    person.go("/admin/customers/tenant/add/")
    person.fill(schema_name="Bad Name", name="Acme", domains__0__domain="acme.localhost")
    person.picture("add")
    person.press("[name=_save]")
    assert "cannot be a schema's name" in person.text()
    person.picture("error")
    person.fill(schema_name="acme")
    person.press("[name=_save]")
    assert "Being made: acme" in person.text()
    person.picture("made")
    person.until(lambda: person.label("Acme") == "active")
    person.picture("list")
    assert person.status("acme.localhost") == 200
    assert "Acme" in person.text()
    person.picture("site")

    person.act("suspend", "Acme")
    assert "Suspended 1 tenant." in person.text()
    person.picture("suspended")
    assert person.status("acme.localhost") == 503
    person.act("resume", "Acme")
    assert person.status("acme.localhost") == 200

    person.go("/admin/customers/tenant/")
    person.driver.find_element("link text", "Acme").click()
    person.picture("change")
    person.press(".object-tools .historylink")
    assert "Suspended." in person.text()
    person.picture("history")
    person.act("delete_selected", "Acme")
    assert "Schema: acme, with all its tables" in person.text()
    person.picture("delete")
    person.press("[type=submit][value*='sure']")
    assert "Successfully deleted 1 tenant." in person.text()
    assert person.status("acme.localhost") == 404


def test_the_admins_are_apart(person: Person) -> None:
    """A tenant's administrator gets into the tenant's admin alone, and sees no tenants there."""
    person.sign_in("boss", host="localhost")
    assert "Please enter the correct username" in person.text()
    person.sign_in("root", host="globex.localhost")
    assert "Please enter the correct username" in person.text()
    person.sign_in("boss", host="globex.localhost")
    assert "Globex administration" in person.text()
    assert "Notes" in person.text()
    assert "Tenants" not in person.text()
    person.picture("tenants_admin")
    person.go("/admin/auth/user/", host="globex.localhost")
    assert "boss" in person.text()
    assert "root" not in person.text()
    assert person.status("globex.localhost", "/admin/customers/tenant/") == 404
    person.go("/admin/", host="localhost")
    assert "/admin/login/" in person.driver.current_url
