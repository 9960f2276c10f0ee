"""LangGraph's store, checkpoint saver and node cache."""

from redis_store.integrations.langgraph.checkpoints import LangGraphSaver
from redis_store.integrations.langgraph.memories import LangGraphStore
from redis_store.integrations.langgraph.node_cache import LangGraphCache

__all__ = ["LangGraphCache", "LangGraphSaver", "LangGraphStore"]
