"""The operations of the store, a coroutine each. They await `Call`s and nothing else."""
