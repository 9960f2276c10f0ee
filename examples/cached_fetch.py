"""Fetch something once, and return it from the store from then on; the result names its source.

Input: {"url": "https://..."}; "refresh": true fetches it again.
Tools: fetch(url), plain or async. Without the tool the result is computed here, slowly.
"""

import hashlib
import inspect


async def run(input_dict: dict, tools: dict) -> dict:
    """Return the content of a url, and its source."""
    url = input_dict.get("url")
    if not isinstance(url, str) or not url:
        return {"error": 'Say what to fetch: {"url": "https://..."}.'}

    cache = data_store.use_namespace("cache:fetch")
    if not input_dict.get("refresh") and (cached := cache.get(url)) is not None:
        return {"url": url, "answer": cached, "source": "cache"}

    if "fetch" in tools:
        answer, source = await call(tools["fetch"], url), "fetched"
    else:
        answer, source = fingerprint(url), "computed"
    cache.set(url, answer, metadata={"source": source})
    return {"url": url, "answer": answer, "source": source}


async def call(tool, *args):
    """Call a tool, whether it is plain or async."""
    result = tool(*args)
    return await result if inspect.isawaitable(result) else result


def fingerprint(text: str) -> str:
    """Stand in for a fetch: always the same result, and too slow to compute twice."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(errors="replace"), b"example", 500_000).hex()
