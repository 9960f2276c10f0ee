"""An MCP server of a user's store, for assistants: tools, resources and subscriptions, by stdio or HTTP."""

from redis_store.integrations.mcp.serve import mcp_server, serve_http, serve_stdio

__all__ = ["mcp_server", "serve_http", "serve_stdio"]
