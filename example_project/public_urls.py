"""Addresses of the public site, http://localhost:8000/, where no tenant is active."""

from __future__ import annotations

from django.urls import path

from example_project.customers.admin import public_site
from example_project.customers.views import LandingView, SignUpView

urlpatterns = [
    path("", LandingView.as_view(), name="landing"),
    path("new/", SignUpView.as_view(), name="sign_up"),
    path("admin/", public_site.urls),
]
