"""Random values and texts, and the check that each codec treats them as the rules do."""
