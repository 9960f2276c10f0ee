"""The near cache: values kept in the process's memory and kept current by the server's invalidation messages."""
