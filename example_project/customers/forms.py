# mypy: disable-error-code="type-arg"
# Django's forms take no type argument at run time.
"""The form with which a company signs up."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import transaction

from pg_tenants import tenant_context
from pg_tenants.admin import TenantForm

from .models import Domain, Tenant
from .public import public_host

__all__ = ["SignUpForm"]


class SignUpForm(TenantForm):
    """A new company and its first user, who manages the others."""

    username = forms.CharField(
        max_length=150, validators=[UnicodeUsernameValidator()], help_text="Your own name there."
    )
    password = forms.CharField(
        strip=False,
        validators=[validate_password],
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    class Meta:
        model = Tenant
        fields = ("name", "schema_name", "colour")
        labels: ClassVar = {"name": "Company", "schema_name": "Address"}
        help_texts: ClassVar = {
            "schema_name": "Also the name of its schema: lower-case letters, digits and _, such as umbrella.",
            "colour": "",
        }
        widgets: ClassVar = {
            "name": forms.TextInput(attrs={"dir": "auto", "autofocus": True}),
            "colour": forms.TextInput(attrs={"type": "color"}),
        }

    def clean_schema_name(self) -> str:
        """Refuse an address that leads to another company already."""
        name = str(self.cleaned_data["schema_name"])
        if Domain.objects.filter(domain=self._host(name)).exists():
            raise ValidationError("This address is taken. Choose another one.")
        return name

    def save(self, commit: bool = True) -> Any:
        """Make the company with its schema, its address and its user: all of them, or nothing.

        Raises:
            SchemaExists, IntegrityError: somebody else took the address in the meantime.
        """
        data = self.cleaned_data
        with transaction.atomic():
            tenant = Tenant.objects.create_tenant(
                data["schema_name"], self._host(data["schema_name"]), name=data["name"], colour=data["colour"]
            )
            with tenant_context(tenant):
                User.objects.create_superuser(data["username"], password=data["password"])
        return tenant

    @staticmethod
    def _host(name: str) -> str:
        return f"{name.replace('_', '-')}.{public_host()}"
