"""The store behind the interfaces of other frameworks: one module for each, and `stores.py`. No other package imports them."""
