"""How the documentation site is made: `make docs` and `make recordings`."""
