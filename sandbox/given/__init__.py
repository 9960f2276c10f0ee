"""The arguments of a run, checked before anything starts."""
