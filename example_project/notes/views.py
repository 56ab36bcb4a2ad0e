# mypy: disable-error-code="type-arg"
# Django's generic views take no type argument at run time.
"""Pages of the active tenant's notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.messages.views import SuccessMessageMixin
from django.db.models import Count, QuerySet
from django.views.generic import CreateView, DetailView, ListView

from .forms import NoteForm, SearchForm
from .models import Note, Tag

if TYPE_CHECKING:
    from django.forms import BaseModelForm
    from django.http import HttpResponse

__all__ = ["NoteCreateView", "NoteDetailView", "NoteListView"]


class NoteListView(ListView):
    """The notes, pinned ones first; those that match ``?q=``, the best first; those with a ``?tag=``."""

    paginate_by = 12

    def get_queryset(self) -> QuerySet[Note]:
        self.form = SearchForm(self.request.GET)
        notes = Note.objects.for_list()
        if not self.form.is_valid():
            return notes.none()
        if tag := self.form.cleaned_data["tag"]:
            notes = notes.filter(tags__name=tag)
        if q := self.form.cleaned_data["q"]:
            notes = notes.search(q)
        return notes

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        tags = Tag.objects.annotate(used=Count("notes")).filter(used__gt=0).order_by("-used", "name")[:24]
        wanted = self.form.cleaned_data
        return super().get_context_data(**kwargs) | {
            "form": self.form,
            "tags": tags,
            "q": wanted.get("q", ""),
            "tag": wanted.get("tag", ""),
        }


class NoteDetailView(DetailView):
    """One note."""

    queryset = Note.objects.for_list()


class NoteCreateView(LoginRequiredMixin, SuccessMessageMixin, CreateView):
    """Write a note, as the user who is signed in."""

    form_class = NoteForm
    template_name = "notes/note_form.html"
    success_message = "The note is saved."

    def form_valid(self, form: BaseModelForm) -> HttpResponse:
        form.instance.author = self.request.user
        return super().form_valid(form)
