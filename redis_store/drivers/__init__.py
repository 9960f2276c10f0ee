"""Drivers, which run operations over connections, for threads and for asyncio."""
