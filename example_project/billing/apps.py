"""Configuration of the app billing."""

from __future__ import annotations

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """The app billing."""

    name = "example_project.billing"
