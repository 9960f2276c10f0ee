"""Read the analysis that producer.py left, in whatever process and at whatever time that was.

Input: nothing.
"""


async def run(input_dict: dict, tools: dict) -> dict:
    """Report on `latest-analysis` in the namespace `shared`, and on who wrote it when."""
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
