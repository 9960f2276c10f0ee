"""The agent's `data_store`, served by the broker over a channel."""
