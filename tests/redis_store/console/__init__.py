"""Tests of the console, in a browser where that matters."""
