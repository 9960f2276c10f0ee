"""An older name of the pytest plugin, which environments that were installed earlier load: `redis_store.testing`."""

from redis_store.testing import *  # noqa: F403
