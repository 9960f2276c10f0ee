"""The host's side of one agent process. Its modules mirror those of `child`."""
