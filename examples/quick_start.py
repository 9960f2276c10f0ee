"""Remember something from one run to the next: the smallest agent with a memory.

Input: {"name": "Ada"}, or nothing.
"""


async def run(input_dict: dict, tools: dict) -> dict:
    """Greet a person, and count how often that has happened."""
    name = input_dict.get("name", "world")
    if not isinstance(name, str) or not name:
        return {"error": 'Give a name as text: {"name": "Ada"}.'}

    visits = data_store.use_namespace("visits")
    count = visits.get(name, default=0) + 1
    visits.set(name, count)

    return {"greeting": f"Hello, {name}!", "visits": count, "everybody": visits.list_keys()}
