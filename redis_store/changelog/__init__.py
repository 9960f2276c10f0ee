"""The change log that every write appends to: entries, cursors, consumers and digests."""
