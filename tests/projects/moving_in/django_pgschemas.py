"""Settings of a project of django-pgschemas."""

import os

DATABASES = {
    "default": {
        "ENGINE": "django_pgschemas.postgresql",
        "NAME": os.environ["DB_NAME"],
        "USER": os.environ["DB_USER"],
        "PASSWORD": os.environ["DB_PASSWORD"],
        "HOST": os.environ["DB_HOST"],
        "PORT": os.environ["DB_PORT"],
    }
}
DATABASE_ROUTERS = ["django_pgschemas.routers.TenantAppsRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SHARED = ["django_pgschemas", "customers", "django.contrib.contenttypes", "django.contrib.auth"]
OF_TENANTS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"]
INSTALLED_APPS = list(dict.fromkeys([*SHARED, *OF_TENANTS]))
MIDDLEWARE = ["django_pgschemas.routing.middleware.DomainRoutingMiddleware"]
TENANTS = {
    "public": {"APPS": SHARED},
    "default": {
        "TENANT_MODEL": "customers.Client",
        "DOMAIN_MODEL": "customers.Domain",
        "APPS": OF_TENANTS,
        "URLCONF": "urls",
    },
}
SECRET_KEY = "tests"
USE_TZ = True
