# mypy: disable-error-code="type-arg"
# Django's admin classes take no type argument at run time.
"""Notes and tags in a tenant's admin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin

from .models import Note, Tag

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = ["NoteAdmin", "TagAdmin"]


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    """Notes of the active tenant."""

    list_display = ("title", "author", "pinned", "created_at")
    list_filter = ("pinned", "tags", "language")
    list_select_related = ("author",)
    search_fields = ("title", "body")
    autocomplete_fields = ("author", "tags")
    date_hierarchy = "created_at"
    readonly_fields = ("created_at", "updated_at")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"author": request.user.pk, **super().get_changeform_initial_data(request)}


@admin.register(Tag)
class TagAdmin(admin.ModelAdmin):
    """Tags of the active tenant."""

    search_fields = ("name",)
