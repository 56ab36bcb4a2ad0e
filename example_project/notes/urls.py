"""Addresses of the notes."""

from __future__ import annotations

from django.urls import path

from .views import NoteCreateView, NoteDetailView, NoteListView

app_name = "notes"
urlpatterns = [
    path("", NoteListView.as_view(), name="list"),
    path("notes/new/", NoteCreateView.as_view(), name="new"),
    path("notes/<int:pk>/", NoteDetailView.as_view(), name="detail"),
]
