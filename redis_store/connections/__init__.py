"""Connections to a server, one socket each. They handle addresses and commands, not operations."""
