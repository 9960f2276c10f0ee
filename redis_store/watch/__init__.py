"""Watching: iterators over changes, and waiting for a key."""
