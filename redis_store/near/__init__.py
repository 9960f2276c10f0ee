"""The near cache: values kept in the process, current by the server's invalidation messages."""
