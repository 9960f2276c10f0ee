"""Random requests of runs with random permissions, and an oracle that says what each may see and change."""
