"""How people are named."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from django import template

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser

register = template.Library()

FAMILY_NAME_FIRST = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


@register.filter
def person(user: AbstractUser) -> str:
    """Return a person's name, family name first where it is written so."""
    if user.last_name and unicodedata.name(user.last_name[0], "").startswith(FAMILY_NAME_FIRST):
        return f"{user.last_name}{user.first_name}"
    return user.get_full_name() or user.get_username()
