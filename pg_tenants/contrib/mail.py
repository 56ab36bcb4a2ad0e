"""Mail that is sent in a tenant's name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend

from pg_tenants import conf
from pg_tenants.context import current_tenant

__all__ = ["TenantEmailBackend", "TenantEmailMixin"]


class TenantEmailMixin(BaseEmailBackend):
    """Sends messages without a sender of their own from the active tenant's address.

    These are the ones whose ``from_email`` is ``DEFAULT_FROM_EMAIL``. The addresses are the tenant's attributes
    ``from_email`` and ``reply_to``, which may be fields or properties; override the two methods to take them from
    elsewhere. Where no tenant is active, or it has none, messages go as they are.

    For a backend other than SMTP: ``class EmailBackend(TenantEmailMixin, theirs.EmailBackend)``.
    """

    def get_from_email(self, tenant: Any) -> str | None:
        """Return the address that the tenant sends from, such as ``Acme <office@acme.example>``."""
        return getattr(tenant, "from_email", None)

    def get_reply_to(self, tenant: Any) -> str | None:
        """Return the address that answers to the tenant go to."""
        return getattr(tenant, "reply_to", None)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Send messages, and return how many were sent."""
        tenant = current_tenant()
        if tenant is not None:
            email_messages = [self._in_the_name_of(tenant, message) for message in email_messages]
        return super().send_messages(email_messages)

    def _in_the_name_of(self, tenant: Any, message: EmailMessage) -> EmailMessage:
        if message.from_email != conf.django_setting("DEFAULT_FROM_EMAIL"):
            return message
        # A copy, for the message may be sent again, for another tenant.
        message = copy.copy(message)
        message.from_email = self.get_from_email(tenant) or message.from_email
        reply_to = self.get_reply_to(tenant)
        if reply_to and not message.reply_to:
            message.reply_to = [reply_to]
        return message


class TenantEmailBackend(TenantEmailMixin, EmailBackend):
    """Django's SMTP backend, with the active tenant's addresses."""
