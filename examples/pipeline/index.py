"""Last of a pipeline: keep an index of words, each with the files whose summaries have it, in `pipeline:index`.

Runs on changes of the namespace `pipeline:summaries`. An index is one for all files: let it run with --concurrency 1.
"""

import re


async def run(input_dict: dict, tools: dict) -> dict:
    """Bring the index up to date with the summaries that changed."""
    index = data_store.use_namespace("pipeline:index")
    words_of = data_store.use_namespace("pipeline:words")
    for change in input_dict["changes"]:
        path = change["key"]
        if path is None:  # clear, or a reset: what is there comes after it
            index.clear()
            words_of.clear()
            continue
        before = set(words_of.get(path, []))
        now = words(change["value"]) if change["op"] == "set" else set()
        found = index.get_many(before | now)
        for word in before - now:
            found[word] = [other for other in found.get(word, []) if other != path]
        for word in now - before:
            found[word] = sorted({*found.get(word, []), path})
        touched = {word: found[word] for word in before ^ now}
        index.set_many({word: paths for word, paths in touched.items() if paths})
        index.delete_many([word for word, paths in touched.items() if not paths])
        # The list of words comes last: a run that ends before this line does the file again.
        words_of.set(path, sorted(now))
    return {"changes": len(input_dict["changes"])}


def words(summary: dict) -> set[str]:
    """The words of a summary, in lower case."""
    text = " ".join([summary["about"], *summary["names"]])
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]{2,}", text)}
