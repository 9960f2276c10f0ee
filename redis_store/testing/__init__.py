"""The pytest plugin: fixtures for testing agents. pytest loads it by itself where agent-data-store is installed."""

from redis_store.testing.fixtures import (
    arun_agent,
    async_data_store,
    data_store,
    data_store_url,
    data_store_user,
    run_agent,
)

__all__ = ["arun_agent", "async_data_store", "data_store", "data_store_url", "data_store_user", "run_agent"]
