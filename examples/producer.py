"""Analyse some numbers, and store the analysis for other agents of the user, such as consumer.py.

Input: {"data": {"apples": 3, "pears": 5}}.
"""

import statistics


async def run(input_dict: dict, tools: dict) -> dict:
    """Store an analysis of the data as `latest-analysis` in the namespace `shared`."""
    data = input_dict.get("data")
    if not is_data(data):
        return {"error": 'Give numbers with their names: {"data": {"apples": 3, "pears": 5}}.'}

    shared = data_store.use_namespace("shared")
    shared.set("latest-analysis", analyse(data), metadata={"numbers": len(data)})
    return {"status": "stored", "namespace": shared.namespace, "key": "latest-analysis"}


def is_data(data) -> bool:
    """Whether `analyse` can process this."""
    return isinstance(data, dict) and bool(data) and all(type(number) in (int, float) for number in data.values())


def analyse(data: dict) -> dict:
    """Summarise numbers by their statistics, and name the largest."""
    by_size = sorted(data, key=data.get, reverse=True)
    return {
        "count": len(data),
        "total": sum(data.values()),
        "mean": round(statistics.fmean(data.values()), 2),
        "median": statistics.median(data.values()),
        "largest": [{"name": name, "value": data[name]} for name in by_size[:3]],
    }
