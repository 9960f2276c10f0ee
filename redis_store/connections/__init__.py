"""Connections to a server, one socket each. They know addresses and commands, not operations."""
