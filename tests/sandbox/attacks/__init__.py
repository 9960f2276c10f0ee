"""Hostile agents, run in every tier of isolation available on this machine, and in a plain subprocess as a control."""
