"""The store behind the interfaces of other frameworks: a module or folder for each, and `stores.py` and `sides.py` for all."""
