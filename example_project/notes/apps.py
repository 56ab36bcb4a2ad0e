"""Configuration of the app notes."""

from __future__ import annotations

from django.apps import AppConfig


class NotesConfig(AppConfig):
    """The app notes."""

    name = "example_project.notes"
