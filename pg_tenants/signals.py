"""What is told of a tenant's life.

Each signal is sent with the model that has the tenants' table as its sender, also where a proxy or a subclass is made
or deleted, and with two arguments: ``tenant``, the instance, and ``using``, the alias of its row. No tenant is active
in receivers; one that works in the tenant enters ``tenant_context(tenant)``.

All of them are sent inside the transaction that does the work. A receiver that raises, of ``pre_`` and of ``post_``
signals alike, stops it and leaves things as they were. What reaches outside the database belongs into
``transaction.on_commit``.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = [
    "post_tenant_activate",
    "post_tenant_create",
    "post_tenant_delete",
    "post_tenant_rename",
    "post_tenant_suspend",
    "pre_tenant_activate",
    "pre_tenant_create",
    "pre_tenant_delete",
    "pre_tenant_rename",
    "pre_tenant_suspend",
]

pre_tenant_create = Signal()
"""Before a tenant's schema is made. A new tenant has no row yet, one that was saved without its schema has."""

post_tenant_create = Signal()
"""The tenant has its row and its schema with all tables. It is not active yet, and nobody else sees it."""

pre_tenant_activate = Signal()
"""Before a tenant becomes active: after its creation, and by ``resume()``."""

post_tenant_activate = Signal()
"""The tenant's status is ``active``; it is served from the commit on."""

pre_tenant_suspend = Signal()
"""Before ``suspend()`` takes a tenant out of service."""

post_tenant_suspend = Signal()
"""The tenant's status is ``suspended``; it is not served from the commit on."""

pre_tenant_rename = Signal()
"""Before ``rename()`` gives a tenant's schema another name. A third argument, ``schema_name``, has the new one."""

post_tenant_rename = Signal()
"""Row and schema have the new name. A third argument, ``schema_name``, has the old one."""

pre_tenant_delete = Signal()
"""Before a tenant's schema is dropped and its row deleted. Its data can still be read."""

post_tenant_delete = Signal()
"""Row and schema are gone, unless the transaction is rolled back."""
