"""One page: asked for, it counts the orders; posted to, it adds one."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.projects.rollout.shop.models import Order


def orders(request: HttpRequest) -> JsonResponse:
    """Write and read all columns that the release knows."""
    if request.method == "POST":
        Order.objects.create(**({"fax": "123"} if settings.RELEASE == 1 else {"email": "ada@example.com"}))
    return JsonResponse({"release": settings.RELEASE, "orders": len(list(Order.objects.all()))})


urlpatterns = [path("", orders)]
