"""The walls of an agent process, put up from inside it."""
