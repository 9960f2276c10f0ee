"""The web console, `redis-store ui`: pages over `redis_store.admin.AsyncAdmin`. Its packages are those of the extra ``ui``.

`app.py` puts it together, and `guard.py` decides which requests reach it. A page is a module of `pages/` with its template.
"""
