"""State shared by all processes of one run: limits, output and cancellation."""
