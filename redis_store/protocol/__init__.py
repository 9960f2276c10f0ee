"""Requests and replies as data. No sockets."""
