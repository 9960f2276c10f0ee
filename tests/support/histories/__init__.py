"""The history checker: random operations under faults are recorded, and their results are checked against what is promised."""
