"""Flows: operations of several steps with waits between them, without I/O, and their two runners."""
