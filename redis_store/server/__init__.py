"""The embedded server: a Valkey that starts on demand and stops after its last user. Independent of stores."""

from redis_store.server.embedded import (
    EmbeddedServer,
    ServerStatus,
    default_data_dir,
    destroy,
    join,
    start,
    status,
    stop,
)

__all__ = ["EmbeddedServer", "ServerStatus", "default_data_dir", "destroy", "join", "start", "status", "stop"]
