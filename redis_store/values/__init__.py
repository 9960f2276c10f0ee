"""What a value may be, and its bytes."""
