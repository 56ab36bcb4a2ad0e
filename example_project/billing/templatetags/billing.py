"""How amounts are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django import template

if TYPE_CHECKING:
    from decimal import Decimal

register = template.Library()

WITHOUT_CENTS = {"JPY", "KRW"}


@register.filter
def money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency: ``1,250.00 EUR``, ``98,000 JPY``."""
    return f"{amount:,.{0 if currency in WITHOUT_CENTS else 2}f}\N{NO-BREAK SPACE}{currency}"


@register.filter
def quantity(value: Decimal) -> str:
    """Return a quantity without needless zeros: ``3``, ``1.5``."""
    return f"{value.normalize():f}"
