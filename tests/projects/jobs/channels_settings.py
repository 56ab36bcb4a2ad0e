"""Settings of a server process with Channels; the layer is Redis."""

from __future__ import annotations

import os

from tests.projects.jobs.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "pg_tenants.contrib.channels.TenantChannelLayer",
        "CONFIG": {"BACKEND": "channels_redis.core.RedisChannelLayer", "hosts": [os.environ["TESTS_REDIS"]]},
    }
}
