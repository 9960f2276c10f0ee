"""The operations of the store, one coroutine each. They await only `Call`s."""
