"""Clients: connections to one server that the stores of any number of users share."""
