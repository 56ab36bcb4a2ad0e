"""Notes, their tags, and how they are searched."""

from __future__ import annotations

import unicodedata
from typing import Any

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.contrib.postgres.search import TrigramWordSimilarity
from django.db import models
from django.db.models import Q
from django.db.models.functions import Upper
from django.urls import reverse
from django.utils import timezone

__all__ = ["Note", "NoteQuerySet", "Tag"]


class NoteQuerySet(models.QuerySet["Note"]):
    """Notes as the pages need them."""

    def for_list(self) -> NoteQuerySet:
        """Fetch authors and tags along."""
        return self.select_related("author").prefetch_related("tags")

    def search(self, text: str) -> NoteQuerySet:
        """Return notes that contain ``text`` or words much like it, the best first, in any alphabet."""
        text = unicodedata.normalize("NFC", text)
        contains = Q(title__icontains=text) | Q(body__icontains=text)
        similar = Q(title__trigram_word_similar=text) | Q(body__trigram_word_similar=text)
        rank = 2.0 * TrigramWordSimilarity(text, "title") + TrigramWordSimilarity(text, "body")
        return self.filter(contains | similar).annotate(rank=rank).order_by("-rank", "-created_at", "-pk")


class Tag(models.Model):
    """A word that notes are found by."""

    name = models.CharField(max_length=50, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """Something that a colleague wrote down."""

    title = models.CharField(max_length=200)
    body = models.TextField()
    language = models.CharField(
        max_length=12, blank=True, help_text="Such as en, pl or ja; browsers choose letter shapes and voices by it."
    )
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="notes")
    tags = models.ManyToManyField(Tag, blank=True, related_name="notes")
    pinned = models.BooleanField(default=False)
    # Defaults rather than auto_now, so that a loader can give the dates of older notes.
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = NoteQuerySet.as_manager()

    class Meta:
        ordering = ("-pinned", "-created_at", "-pk")
        indexes = (
            # The first serves the similar words, the second the text as it is: icontains compares in upper case.
            GinIndex(fields=["title", "body"], opclasses=["gin_trgm_ops", "gin_trgm_ops"], name="note_similar"),
            GinIndex(
                OpClass(Upper("title"), name="gin_trgm_ops"),
                OpClass(Upper("body"), name="gin_trgm_ops"),
                name="note_contains",
            ),
        )

    def __str__(self) -> str:
        return self.title

    def clean(self) -> None:
        """Bring the text into the form that is searched for: a letter and its accent as one character."""
        super().clean()
        self.title = unicodedata.normalize("NFC", self.title)
        self.body = unicodedata.normalize("NFC", self.body)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and remember when."""
        if not self._state.adding:
            self.updated_at = timezone.now()
        super().save(*args, **kwargs)

    def get_absolute_url(self) -> str:
        """Return the page of this note."""
        return reverse("notes:detail", args=[self.pk])

    @property
    def edited(self) -> bool:
        """Whether it was changed after it was written."""
        return (self.updated_at - self.created_at).total_seconds() > 60
