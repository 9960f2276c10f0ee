"""A FastMCP server: an assistant writes notes, and finds them when it comes again."""

from fastmcp import FastMCP
from key_value.aio.adapters.pydantic import PydanticAdapter
from pydantic import BaseModel

from redis_store.integrations.py_key_value import KeyValueStore

storage = KeyValueStore(user="demo")  # the store


class Notebook(BaseModel):
    notes: list[str] = []


notebooks = PydanticAdapter(key_value=storage, pydantic_model=Notebook, default_collection="notebooks")
server = FastMCP("notes")


@server.tool
async def note(text: str) -> str:
    """Write a note, and return all of them."""
    notebook = await notebooks.get("mine") or Notebook()
    notebook.notes.append(text)
    await notebooks.put("mine", notebook)
    return f"{len(notebook.notes)} notes: {', '.join(notebook.notes)}"


if __name__ == "__main__":
    server.run(show_banner=False)
