"""Names, Redis keys, access rights, and the scope of a handle."""
