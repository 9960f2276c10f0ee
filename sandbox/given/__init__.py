"""Check the arguments of a run before anything is started."""
