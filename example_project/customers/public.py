"""Where the public site is, and the companies' sites under it."""

from __future__ import annotations

from django.http import HttpRequest

from pg_tenants import conf

__all__ = ["port_of", "public_host", "public_site"]


def public_host() -> str:
    """Return the public site's host, the first of PUBLIC_HOSTS; companies that sign up get hosts under it."""
    return next(iter(conf.require().public_hosts), "localhost")


def port_of(request: HttpRequest) -> str:
    """Return what stands behind the host in this site's addresses: ``:8000``, or nothing where it is the usual port."""
    port = request.get_port()
    return "" if port == {"http": "80", "https": "443"}.get(request.scheme or "") else f":{port}"


def public_site(request: HttpRequest) -> dict[str, str]:
    """Tell templates the address of the public site, and the port of all of them."""
    port = port_of(request)
    return {"public_address": f"{request.scheme}://{public_host()}{port}/", "port": port}
