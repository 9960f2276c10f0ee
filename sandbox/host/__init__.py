"""What the host does for one agent process. File by file the counterpart of `child`."""
