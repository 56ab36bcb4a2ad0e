"""Asks the demo's pages over HTTP, as a browser would, and says what it saw."""

from __future__ import annotations

import html
import http.client
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from example_project.customers.models import Tenant
from example_project.demo.site import HOST, Site
from example_project.loading import Company, demo_password, read_companies
from example_project.notes.models import Note
from pg_tenants import tenant_context

__all__ = ["CheckFailed", "check"]

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class CheckFailed(Exception):
    """Something was not as it should be; the message says what."""


@dataclass(slots=True)
class Page:
    """An answer: its status, where it redirects to, and its text with entities resolved."""

    status: int
    location: str
    text: str


@dataclass(slots=True)
class Browser:
    """Asks one host and keeps its cookies."""

    host: str
    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Page:
        """Ask for a page."""
        return self._ask("GET", path, None)

    def post(self, path: str, **fields: str) -> Page:
        """Fill in the form of a page and send it."""
        token = _TOKEN.search(self.get(path).text)
        if token is None:
            raise CheckFailed(f"{self.host}{path} has no form to fill in.")
        return self._ask("POST", path, urlencode({**fields, "csrfmiddlewaretoken": token.group(1)}))

    def _ask(self, method: str, path: str, body: str | None) -> Page:
        # The address of the socket is 127.0.0.1: not every system resolves names under localhost.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        headers = {"Host": f"{self.host}:{self.port}", "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = html.unescape(answer.read().decode())
        finally:
            connection.close()
        for line in answer.headers.get_all("Set-Cookie") or ():
            self.cookies.update({name: morsel.value for name, morsel in SimpleCookie(line).items()})
        return Page(answer.status, answer.headers.get("Location", ""), text)


def check(site: Site, tenants: list[Tenant], say: Callable[[str], None]) -> None:
    """Ask each tenant's pages and compare what they show with all companies' data.

    Raises:
        CheckFailed: a page is not as it should be, or shows another tenant's row.
    """
    # The unknown host that is asked for is no news.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    companies = {company["label"]: company for company in read_companies()}
    browsers = {tenant.schema_name: Browser(f"{tenant.schema_name}.localhost", site.port) for tenant in tenants}
    written = {tenant.schema_name: f"Checked by the demo at {tenant.name}" for tenant in tenants}
    try:
        for tenant in tenants:
            _check_admin_and_write(browsers[tenant.schema_name], tenant, written[tenant.schema_name])
        for tenant in tenants:
            _check_reading(browsers[tenant.schema_name], tenant, companies, written, say)
    finally:
        for tenant in tenants:
            with tenant_context(tenant):
                Note.objects.filter(title=written[tenant.schema_name]).delete()
    _check_strangers(site, browsers, say)


def _check_admin_and_write(browser: Browser, tenant: Tenant, title: str) -> None:
    _expect(browser.get("/"), 200, browser, "/")
    password = demo_password(tenant)
    answer = browser.post("/admin/login/?next=/admin/", username="admin", password=password, next="/admin/")
    _expect(answer, 302, browser, "the admin's login")
    _expect(browser.get("/admin/"), 200, browser, "/admin/")
    answer = browser.post("/notes/new/", title=title, body="Written over HTTP.", tags="demo")
    _expect(answer, 302, browser, "/notes/new/")


def _check_reading(
    browser: Browser,
    tenant: Tenant,
    companies: dict[str, Company],
    written: dict[str, str],
    say: Callable[[str], None],
) -> None:
    label = tenant.schema_name
    own = {note["title"] for note in companies[label]["notes"]} | {written[label]}
    foreign = {note["title"] for other in companies if other != label for note in companies[other]["notes"]} - own
    foreign |= {title for other, title in written.items() if other != label}
    shown = _all_pages(browser, "/")
    missing = sorted(title for title in own if title not in shown)
    if missing:
        raise CheckFailed(f"{browser.host} does not show {len(missing)} of its notes, such as {missing[0]!r}.")
    leaked = sorted(title for title in foreign if title in shown)
    if leaked:
        raise CheckFailed(f"{browser.host} shows a note of another company: {leaked[0]!r}.")
    wanted = companies[label]["notes"][0]["title"]
    if wanted not in browser.get("/?" + urlencode({"q": wanted})).text:
        raise CheckFailed(f"Searching {browser.host} for {wanted!r} does not find it.")
    stranger = max(foreign, key=len)
    answer = _body_of(browser.get("/?" + urlencode({"q": stranger})), stranger)
    found = [title for title in foreign if title in answer]
    if found:
        raise CheckFailed(f"Searching {browser.host} for {stranger!r} finds {found[0]!r} of another company.")
    invoices = _all_pages(browser, "/invoices/")
    numbers = {invoice["number"] for invoice in companies[label]["invoices"]}
    customers = {i["customer_name"] for other in companies if other != label for i in companies[other]["invoices"]}
    customers -= {invoice["customer_name"] for invoice in companies[label]["invoices"]}
    if not all(number in invoices for number in numbers) or any(name in invoices for name in customers):
        raise CheckFailed(f"{browser.host}/invoices/ does not show just the invoices of {tenant.name}.")
    say(f"{browser.host}: {len(own)} notes, {len(numbers)} invoices, search, login, one write; no other rows.")


def _check_strangers(site: Site, browsers: dict[str, Browser], say: Callable[[str], None]) -> None:
    first, second = list(browsers.values())[:2]
    thief = Browser(second.host, site.port, dict(first.cookies))
    if thief.get("/admin/").status != 302:
        raise CheckFailed(f"The session of {first.host} is accepted at {second.host}.")
    unknown = Browser("nobody.localhost", site.port)
    _expect(unknown.get("/"), 404, unknown, "/")
    public = Browser("localhost", site.port)
    _expect(public.get("/"), 200, public, "/")
    say("A session is refused at another company, an unknown host is a 404, localhost lists the companies.")


def _all_pages(browser: Browser, path: str) -> str:
    """Return the text of a list's pages, from the first to the last."""
    texts: list[str] = []
    while True:
        number = len(texts) + 1
        page = browser.get(f"{path}?page={number}")
        if page.status == 404 and number > 1:
            return "\n".join(texts)
        _expect(page, 200, browser, f"{path}?page={number}")
        texts.append(page.text)
        if f"page={number + 1}" not in page.text:
            return "\n".join(texts)


def _body_of(page: Page, query: str) -> str:
    """Return a page's text without the query that it repeats."""
    return page.text.replace(query, "", 4) if page.text.count(query) <= 4 else page.text


def _expect(page: Page, status: int, browser: Browser, what: str) -> None:
    if page.status != status:
        raise CheckFailed(f"{browser.host}: {what} answered {page.status} instead of {status}.")
