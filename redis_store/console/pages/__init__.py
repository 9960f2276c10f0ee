"""The pages: a module for each family, with its `routes`. A handler asks the operations and fills a template."""

from redis_store.console.pages import users

routes = [*users.routes]
"""The routes of all pages."""
