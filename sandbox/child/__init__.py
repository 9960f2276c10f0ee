"""What runs inside an agent's process, on the standard library, msgpack and a few pure modules shared with the host."""
