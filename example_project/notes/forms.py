# mypy: disable-error-code="type-arg"
# Django's forms take no type argument at run time.
"""Forms for searching and writing notes."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction

from .models import Note, Tag

__all__ = ["NoteForm", "SearchForm"]

COMMAS = re.compile("[,;،、\N{FULLWIDTH COMMA}\N{FULLWIDTH SEMICOLON}]")
"""What separates tags: commas and semicolons, also the Arabic and East Asian ones."""


class SearchForm(forms.Form):
    """What to look for. Refuses what PostgreSQL could not take, such as NUL."""

    q = forms.CharField(max_length=200, required=False)
    tag = forms.CharField(max_length=50, required=False)


class NoteForm(forms.ModelForm):
    """A new note, with its tags written in one line."""

    tag_names = forms.CharField(
        label="Tags", max_length=300, required=False, help_text="Separated by commas; at most eight."
    )

    class Meta:
        model = Note
        fields = ("title", "body", "pinned")
        labels: ClassVar = {"body": "Text", "pinned": "Pin to the top"}
        widgets: ClassVar = {
            "title": forms.TextInput(attrs={"dir": "auto", "autofocus": True}),
            "body": forms.Textarea(attrs={"dir": "auto", "rows": 12}),
        }

    def clean_tag_names(self) -> list[str]:
        """Return the tags, each once, in the order they were written."""
        text = unicodedata.normalize("NFC", self.cleaned_data["tag_names"])
        names = list(dict.fromkeys(name for part in COMMAS.split(text) if (name := " ".join(part.split()))))
        if len(names) > 8:
            raise ValidationError("These are %(count)s tags. Write eight at most.", params={"count": len(names)})
        if long := next((name for name in names if len(name) > 50), None):
            raise ValidationError("The tag “%(name)s” is longer than 50 characters.", params={"name": long})
        return names

    @transaction.atomic
    def save(self, commit: bool = True) -> Any:
        """Save the note and its tags; ``commit=False`` leaves both to the caller."""
        note = super().save(commit)
        if commit:
            note.tags.set([Tag.objects.get_or_create(name=name)[0] for name in self.cleaned_data["tag_names"]])
        return note
