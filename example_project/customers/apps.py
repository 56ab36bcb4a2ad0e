"""Configuration of the app customers."""

from __future__ import annotations

from django.apps import AppConfig


class CustomersConfig(AppConfig):
    """The app customers."""

    name = "example_project.customers"
