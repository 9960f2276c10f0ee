"""The messages between host and agent process, and their framing. Used by both sides."""
