"""Addresses of a tenant's site."""

from __future__ import annotations

from typing import Any

from debug_toolbar.toolbar import debug_toolbar_urls
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from rest_framework import serializers, viewsets
from rest_framework.authtoken.views import obtain_auth_token
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from tests.projects.libraries.things.models import Thing

__all__ = ["urlpatterns"]


class ThingSerializer(serializers.ModelSerializer[Thing]):
    """A thing's name, which is unique."""

    class Meta:
        model = Thing
        fields = ("id", "name")


class ThingViewSet(viewsets.ModelViewSet[Thing]):
    """Things; made once at import, as querysets of viewsets are."""

    queryset = Thing.objects.all()
    serializer_class = ThingSerializer


class Throttled(APIView):
    """Twice an hour for each user."""

    throttle_classes = (UserRateThrottle,)

    def get(self, request: Any) -> Response:
        return Response({})


class Hello(APIView):
    """For everybody."""

    permission_classes = (AllowAny,)

    def get(self, request: Any) -> Response:
        return Response({})


def names(request: HttpRequest) -> HttpResponse:
    """Show the things' names, by two queries."""
    found = [thing.name for thing in Thing.objects.all()]
    return HttpResponse(f"<html><body>{Thing.objects.count()}: {', '.join(found)}</body></html>")


router = DefaultRouter()
router.register("things", ThingViewSet)

urlpatterns = [
    path("names/", names),
    path("api/", include(router.urls)),
    path("throttled/", Throttled.as_view()),
    path("token/", obtain_auth_token),
    path("accounts/", include("allauth.urls")),
    *debug_toolbar_urls(),
]
