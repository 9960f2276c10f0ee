"""Names, Redis keys, rights, and the scope of a handle."""
