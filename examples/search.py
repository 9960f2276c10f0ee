"""Search the summaries of all repositories that ingest_repository.py has stored.

Input: {"query": "parse json"}; "limit": 3 returns at most the best three.
"""

import json
import re


async def run(input_dict: dict, tools: dict) -> dict:
    """Find the files whose summary or path contains every word of the query, the best first."""
    query, limit = input_dict.get("query"), input_dict.get("limit", 10)
    if not isinstance(query, str) or not query.strip():
        return {"error": 'Say what to look for: {"query": "parse json"}.'}
    if type(limit) is not int or limit < 1:
        return {"error": "The limit must be a whole number above 0."}

    words = query.lower().split()
    namespaces = data_store.list_namespaces(prefix="summary:")
    found = {}
    for namespace in namespaces:
        repo = namespace.removeprefix("summary:")
        for path, summary in data_store.use_namespace(namespace).iter_items():
            if score := rate(words, path, summary):
                found[repo, path] = {"repo": repo, "file": path, "score": score, "summary": summary}
    best = sorted(found.values(), key=lambda hit: (-hit["score"], hit["repo"], hit["file"]))

    if not namespaces:
        print("Nothing has been ingested yet: run ingest_repository.py for the same user first.")
    return {"query": query, "repositories": len(namespaces), "found": len(found), "results": best[:limit]}


def rate(words: list[str], path: str, summary) -> int:
    """Rate a file: a whole word scores most, then a word in the path, then a part of a word; 0 if a word is missing."""
    text = json.dumps(summary, ensure_ascii=False).lower()
    score = 0
    for word in words:
        if re.search(rf"\b{re.escape(word)}\b", text):
            score += 3
        elif word in path.lower():
            score += 2
        elif word in text:
            score += 1
        else:
            return 0
    return score
