"""What stored things are charged for beside their names and values: about the memory that the server takes for them, in bytes.

`make bench-charges` measures the memory on a server; docs/limits.md has the figures.
"""

from __future__ import annotations

KEY_BYTES = 240
"""Charge for each key that is written, beside twice its name: its entries in the data and in the info."""

NAMESPACE_BYTES = 200
"""Charge for each namespace that a run writes, beside three times its name: data, info and the user's registry."""

LOGGED_BYTES = 400
"""Charge for a call that stores, or tells watchers, up to 1 KiB that it does not send."""

HELD_BYTES = 400
"""Charge for a lock, a slot, a rate limit or a claim, and for joining its queue, beside three times its name."""

TAG_BYTES = 300
"""Charge for each tag of a value, beside twice the tag's name and the names of the key and its namespace."""

WATCH_BYTES = 8_000
"""Charge for each namespace that a run watches, beside three times its name: a change log and the state of the last watcher."""

CURSOR_BYTES = 200
"""Charge for each namespace that a consumer follows, beside its name: the consumer's cursor there."""
