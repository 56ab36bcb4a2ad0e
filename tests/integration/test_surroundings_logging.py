"""Log records and mail say whose they are."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import django
import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from example_project.customers.models import Tenant
from pg_tenants import schema_context, tenant_context
from pg_tenants.context import bind
from pg_tenants.contrib.logging import TenantFilter
from pg_tenants.contrib.mail import TenantEmailMixin

FORMAT = logging.Formatter("%(tenant)s %(schema_name)s %(message)s")


class Lines(logging.Handler):
    """Keeps what it formats."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Log all through the filter, as LOGGING would have it."""
    handler = Lines()
    handler.addFilter(TenantFilter())
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)


def say(message: str) -> None:
    logging.getLogger("somebody.else").warning(message)


def test_every_record_has_its_tenant(lines: list[str], acme: Any, django_assert_num_queries: Any) -> None:
    """Without a query, though fields are deferred; a schema without its tenant is no tenant."""
    lines.clear()
    deferred = Tenant.objects.only("schema_name", "module").get(pk=acme.pk)
    with django_assert_num_queries(0):
        say("outside")
        with tenant_context(deferred):
            say("inside")
            with schema_context("public"):
                say("public")
            thread = threading.Thread(target=bind(say), args=("thread",))
            thread.start()
            thread.join()
    assert lines == ["- - outside", "acme acme inside", "- public public", "acme acme thread"]


def test_a_queue_keeps_the_tenant(acme: Any) -> None:
    """The filter in front of it decides, not one in the thread behind it."""
    records: queue.Queue[Any] = queue.Queue()
    front, behind = logging.handlers.QueueHandler(records), Lines()
    front.addFilter(TenantFilter())
    behind.addFilter(TenantFilter())
    logger = logging.getLogger("queued")
    logger.addHandler(front)
    listener = logging.handlers.QueueListener(records, behind)
    listener.start()
    with tenant_context(acme):
        logger.warning("hello")
    listener.stop()
    logger.removeHandler(front)
    assert behind.lines == ["acme acme hello"]


def refuse(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=400)


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


def test_what_django_logs_about_requests(lines: list[str], acme: Any) -> None:
    """Answers of 4xx and 5xx have the request's tenant, though it is left by then; an unknown host has none."""
    module: Any = ModuleType("logging_urls")
    module.urlpatterns = [path("refuse/", refuse), path("fail/", fail)]
    sys.modules["logging_urls"] = module
    lines.clear()
    with override_settings(ROOT_URLCONF="logging_urls"):
        for host in ("acme.localhost", "nobody.localhost"):
            for name in ("refuse", "fail", "nowhere"):
                Client(raise_request_exception=False).get(f"/{name}/", headers={"host": host})
    del sys.modules["logging_urls"]
    found = [line.splitlines()[0] for line in lines]
    assert found == [
        "acme acme Bad Request: /refuse/",
        "acme acme Internal Server Error: /fail/",
        "acme acme Not Found: /nowhere/",
        "- - Not Found: /refuse/",
        "- - Not Found: /fail/",
        "- - Not Found: /nowhere/",
    ]


def test_odd_records() -> None:
    """Whatever is beside the message."""
    for request in (None, object(), 7, HttpRequest()):
        record = logging.makeLogRecord({"request": request, "tenant": "given"})
        assert TenantFilter().filter(record) is True
        assert (record.schema_name, record.tenant) == ("-", "given")  # type: ignore[attr-defined]


# -- mail -------------------------------------------------------------------------------------------------------------

OURS = "pg_tenants.contrib.mail.TenantEmailBackend"


def mailer(backend: str, **options: Any) -> Any:
    """Return settings that send by a backend, as each version of Django has it."""
    if django.VERSION >= (6, 1):
        return override_settings(
            MAILERS={"default": {"BACKEND": backend, "OPTIONS": options}}, DEFAULT_FROM_EMAIL="all@example.com"
        )
    named = {f"EMAIL_{key.upper()}": value for key, value in options.items()}
    return override_settings(EMAIL_BACKEND=backend, DEFAULT_FROM_EMAIL="all@example.com", **named)


@pytest.fixture
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tenants addresses; globex has none."""
    acmes = property(lambda self: "Acme <office@acme.example>" if self.schema_name == "acme" else "")
    monkeypatch.setattr(Tenant, "from_email", acmes, raising=False)
    monkeypatch.setattr(
        Tenant,
        "reply_to",
        property(lambda self: "help@acme.example" if self.schema_name == "acme" else None),
        raising=False,
    )


def message(**kwargs: Any) -> EmailMessage:
    return EmailMessage("Hello", "text", to=["bob@example.com"], **kwargs)


@pytest.mark.usefixtures("_addresses")
def test_mail_goes_out_in_the_tenants_name(acme: Any, globex: Any) -> None:
    """By SMTP: sender and answers are the tenant's unless the message has its own, and nobody's message changes."""
    controller = pytest.importorskip("aiosmtpd.controller")
    received: list[Any] = []

    class Inbox:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            received.append(envelope)
            return "250 OK"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    smtp = controller.Controller(Inbox(), hostname="127.0.0.1", port=port)
    smtp.start()
    try:
        with mailer(OURS, host="127.0.0.1", port=port):
            one = message()
            for tenant in (acme, globex):
                with tenant_context(tenant):
                    assert one.send() == 1
                    assert message(from_email="me@example.com", reply_to=["me@example.com"]).send() == 1
            with schema_context("public"):
                assert one.send() == 1
            assert one.from_email == "all@example.com"
    finally:
        smtp.stop()
    senders = [envelope.mail_from for envelope in received]
    assert senders == ["office@acme.example", "me@example.com", "all@example.com", "me@example.com", "all@example.com"]
    assert b"From: Acme <office@acme.example>" in received[0].content
    assert b"Reply-To: help@acme.example" in received[0].content
    assert b"Reply-To: me@example.com" in received[1].content
    assert b"Reply-To" not in received[2].content
    assert b"acme" not in received[4].content


@pytest.mark.usefixtures("_addresses")
def test_any_backend_can_be_wrapped(acme: Any) -> None:
    """With addresses from elsewhere, too."""
    from django.core.mail.backends import locmem

    class Backend(TenantEmailMixin, locmem.EmailBackend):
        def get_from_email(self, tenant: Any) -> str | None:
            return f"{tenant.schema_name}@example.com"

    module: Any = ModuleType("mail_backend")
    module.Backend = Backend
    sys.modules["mail_backend"] = module
    try:
        with mailer("mail_backend.Backend"), tenant_context(acme):
            mail.send_mail("Hello", "text", None, ["bob@example.com"])
            mail.send_mail("Hello", "text", "me@example.com", ["bob@example.com"])
            message(reply_to=["me@example.com"]).send()
    finally:
        del sys.modules["mail_backend"]
    assert [(sent.from_email, sent.reply_to) for sent in mail.outbox] == [
        ("acme@example.com", ["help@acme.example"]),
        ("me@example.com", []),
        ("acme@example.com", ["me@example.com"]),
    ]


def test_an_address_cannot_bring_headers(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant's line break is refused by Django before anything is sent."""
    monkeypatch.setattr(Tenant, "from_email", "a@example.com\nBcc: all@example.com", raising=False)
    with mailer(OURS, host="127.0.0.1", port=1), tenant_context(acme), pytest.raises((ValueError, OSError)):
        message().send()
