"""Speed of the store relative to redis-py, which does the same work in the same run."""
