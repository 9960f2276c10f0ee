"""How fast the store is beside redis-py doing the same work in the same run."""
