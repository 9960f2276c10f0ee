"""Hostile agents, run in every tier of isolation that this machine has, and against a plain subprocess as a control."""
