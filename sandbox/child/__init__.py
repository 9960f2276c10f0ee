"""Code that runs inside an agent's process: the standard library, msgpack and a few pure modules shared with the host."""
