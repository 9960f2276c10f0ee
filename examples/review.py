"""Have eight other agents review a Python file at once, and merge their findings.

Input: {"name": "a.py", "text": "..."}.
Agents: those in the folder reviewers/, each of which checks one thing and returns {"findings": [{"line": 1, "text": "..."}]}.
They read the text from the store, not from their inputs. Stores: review:files, review:reports.
"""

import asyncio


async def run(input_dict: dict, tools: dict) -> dict:
    """Review a file and return the findings, sorted by line."""
    name, text = input_dict.get("name"), input_dict.get("text")
    if not isinstance(name, str) or not name or not isinstance(text, str):
        return {"error": 'Say what to review: {"name": "a.py", "text": "..."}.'}
    if not len(agents):
        return {"error": "The host provides no reviewers: pass agents='examples/reviewers' (--agents)."}

    data_store.use_namespace("review:files").set(name, text)
    answers = await asyncio.gather(
        *(agents.call(reviewer, {"name": name}) for reviewer in agents), return_exceptions=True
    )
    findings, failed = [], {}
    for reviewer, answer in zip(agents, answers, strict=True):
        if isinstance(answer, Exception):
            failed[reviewer] = str(answer)
        else:
            findings += [{**finding, "reviewer": reviewer} for finding in answer["findings"]]

    report = {
        "name": name,
        "reviewers": len(agents),
        "findings": sorted(findings, key=lambda finding: (finding["line"], finding["reviewer"])),
        "failed": failed,
    }
    data_store.use_namespace("review:reports").set(name, report)
    return report
