"""The hub: follows change logs and keyspace events for all watchers of one process on one server."""
