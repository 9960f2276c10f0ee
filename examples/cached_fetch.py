"""Fetch something once, and return it from the store from then on; the result names its source.

Input: {"url": "https://..."}; "refresh": true fetches it again.
Tools: fetch(url), plain or async. Without the tool the result is computed here, slowly.
"""

import hashlib


async def run(input_dict: dict, tools: dict) -> dict:
    """Return the content of a url, and its source."""
    url = input_dict.get("url")
    if not isinstance(url, str) or not url:
        return {"error": 'Say what to fetch: {"url": "https://..."}.'}

    cache = data_store.use_namespace("cache:fetch")
    if input_dict.get("refresh"):
        cache.delete(url)
    source = "cache"

    def make():
        nonlocal source
        source = "fetched" if "fetch" in tools else "computed"
        return tools["fetch"](url) if "fetch" in tools else fingerprint(url)

    answer = cache.get_or_set(url, make)  # awaits what an async tool returns; concurrent runs fetch once
    return {"url": url, "answer": answer, "source": source}


def fingerprint(text: str) -> str:
    """Stand in for a fetch: always the same result, and too slow to compute twice."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(errors="replace"), b"example", 500_000).hex()
