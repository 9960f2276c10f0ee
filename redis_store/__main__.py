"""``python -m redis_store`` is the command `redis-store`."""

from redis_store.cli import main

if __name__ == "__main__":
    main()
