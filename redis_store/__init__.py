"""A store that the agents of one user share, on Redis or Valkey."""
