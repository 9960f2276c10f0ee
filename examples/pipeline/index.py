"""Last of a pipeline: keep an index in `pipeline:index`, from each word to the files whose summaries contain it.

Runs on changes of the namespace `pipeline:summaries`. All files share one index, so run it with --concurrency 1.
"""

import re


async def run(input_dict: dict, tools: dict) -> dict:
    """Update the index for the summaries that changed."""
    index = data_store.use_namespace("pipeline:index")
    words_of = data_store.use_namespace("pipeline:words")
    for change in input_dict["changes"]:
        path = change["key"]
        if path is None:  # a clear, or a reset: the existing keys follow it
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
        # The list of words is stored last, so that a run that ends before this line repeats the file.
        words_of.set(path, sorted(now))
    return {"changes": len(input_dict["changes"])}


def words(summary: dict) -> set[str]:
    """Return the words of a summary, in lower case."""
    text = " ".join([summary["about"], *summary["names"]])
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]{2,}", text)}
