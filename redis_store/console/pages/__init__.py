"""The pages: a module for each family, with its `routes`. A handler asks the operations and fills a template."""

from redis_store.console.pages import (
    audit,
    changes,
    consumers,
    doctor,
    key,
    locks,
    namespace,
    runs,
    see_as,
    user,
    users,
)

routes = [
    *users.routes,
    *user.routes,
    *namespace.routes,
    *key.routes,
    *changes.routes,
    *consumers.routes,
    *locks.routes,
    *runs.routes,
    *see_as.routes,
    *doctor.routes,
    *audit.routes,
]
"""The routes of all pages."""
