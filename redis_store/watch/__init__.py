"""Watching: what a caller iterates over, and waiting for a key."""
