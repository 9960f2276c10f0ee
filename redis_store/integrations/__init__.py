"""The store behind the interfaces of other frameworks: one module for each; no other module imports them."""
