"""Read the analysis that producer.py stored, in another process or at an earlier time.

Input: none.
"""


async def run(input_dict: dict, tools: dict) -> dict:
    """Report on `latest-analysis` in the namespace `shared`, with its writer and time."""
    shared = data_store.use_namespace("shared")
    analysis = shared.get("latest-analysis")
    if analysis is None:
        return {"error": "There is no analysis yet: run producer.py for the same user first."}

    info = shared.info("latest-analysis")
    largest = ", ".join(f"{item['name']} ({item['value']:,})" for item in analysis["largest"])
    return {
        "report": f"{analysis['count']:,} numbers, {analysis['total']:,} in total; the largest: {largest}.",
        "analysis": analysis,
        "written_by": info.updated_by,
        "written_at": str(info.updated_at),
    }
