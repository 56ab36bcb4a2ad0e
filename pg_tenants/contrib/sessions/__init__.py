"""Sessions that are good for the tenant alone that they were made for.

Each module beside this one has a ``SessionStore`` for ``SESSION_ENGINE``, named as Django's own in
``django.contrib.sessions.backends``.
"""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import SessionBase

from pg_tenants.context import current_schema
from pg_tenants.exceptions import WrongTenant

__all__ = ["SCHEMA_KEY", "TenantSessionMixin"]

SCHEMA_KEY = "_pg_tenants_schema"
"""Where a session says whose it is."""


class TenantSessionMixin(SessionBase):
    """Binds a session to the schema that is active when it is first saved.

    To any other tenant, and where none is active, the session is as if it were not there: its reader gets an empty one
    with a key of its own, and what is stored is neither changed nor deleted. A session that was stored without this
    class is nobody's, so no tenant accepts it.

    For an engine that is not Django's: ``class SessionStore(TenantSessionMixin, theirs.SessionStore)``.
    """

    # The key under which the stored session is known to be ours.
    _own_key: str | None = None
    _is_loading = False

    def load(self) -> dict[str, Any]:
        """Return the stored data, or nothing if they are another tenant's."""
        self._is_loading = True
        try:
            return self._ours(super().load())
        finally:
            self._is_loading = False

    async def aload(self) -> dict[str, Any]:
        """Return the stored data, or nothing if they are another tenant's."""
        self._is_loading = True
        try:
            return self._ours(await super().aload())
        finally:
            self._is_loading = False

    def save(self, must_create: bool = False) -> None:
        """Store the data for the active schema.

        Raises:
            WrongTenant: the session was loaded or saved before in another schema.
        """
        if not must_create and self._is_doubtful():
            self._keep(self.load())
        _claim(self._get_session(no_load=must_create))  # type: ignore[attr-defined]
        super().save(must_create)
        self._own_key = self.session_key

    async def asave(self, must_create: bool = False) -> None:
        """Store the data for the active schema.

        Raises:
            WrongTenant: the session was loaded or saved before in another schema.
        """
        if not must_create and self._is_doubtful():
            self._keep(await self.aload())
        _claim(await self._aget_session(no_load=must_create))  # type: ignore[attr-defined]
        await super().asave(must_create)
        self._own_key = self.session_key

    def delete(self, session_key: str | None = None) -> None:
        """Delete what is stored under a key given, or under the session's own unless that is another tenant's."""
        if session_key in (None, self.session_key):
            session_key = None
            # The file engine deletes what it finds too old while it loads.
            if not self._is_loading and self._is_doubtful():
                self._keep(self.load())
        super().delete(session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        """Delete what is stored under a key given, or under the session's own unless that is another tenant's."""
        if session_key in (None, self.session_key):
            session_key = None
            # The file engine deletes what it finds too old while it loads.
            if not self._is_loading and self._is_doubtful():
                self._keep(await self.aload())
        await super().adelete(session_key)

    def _is_doubtful(self) -> bool:
        """Return whether the key came from a client, and nobody has looked yet whose session it leads to."""
        return self.session_key not in (None, self._own_key)

    def _ours(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._is_doubtful() and data.get(SCHEMA_KEY) != current_schema():
            self._session_key: str | None = None
            return {}
        self._own_key = self.session_key
        return data

    def _keep(self, data: dict[str, Any]) -> None:
        # clear() puts an empty dictionary there, without a look at what is stored.
        if not hasattr(self, "_session_cache"):
            self._session_cache = data


def _claim(data: dict[str, Any]) -> None:
    here = current_schema()
    if here is not None:
        data.setdefault(SCHEMA_KEY, here)
    if data.get(SCHEMA_KEY) != here:
        raise WrongTenant(
            f"The session belongs to the schema {data[SCHEMA_KEY]!r}, and is saved while "
            f"{'no schema' if here is None else repr(here)} is active. Save it, log in and log out in the request's "
            "own tenant, and put SessionMiddleware below TenantMiddleware."
        )
