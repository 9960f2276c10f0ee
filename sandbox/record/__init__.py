"""The record of runs: timeline, hints and spans."""
