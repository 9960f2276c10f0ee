"""Values: which are valid, and how they are encoded as bytes."""
