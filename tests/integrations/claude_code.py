"""Claude Code as the Agent SDK starts it: counts the questions of the session that it is given, and mirrors its transcript."""

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

PROJECTS = Path(os.environ["CLAUDE_CONFIG_DIR"]) / "projects"


def send(**frame: Any) -> None:
    print(json.dumps(frame), flush=True)


def main(arguments: list[str]) -> None:
    if "-v" in arguments:
        print("2.0.0 (Claude Code)")
        return
    resumed = next((each.partition("=")[2] for each in arguments if each.startswith("--resume=")), None)
    session_id = resumed or str(uuid.uuid4())
    project = "".join(each if each.isalnum() else "-" for each in str(Path.cwd().resolve()))
    transcript = PROJECTS / project / f"{session_id}.jsonl"
    lines = transcript.read_text(encoding="utf-8").splitlines() if resumed else []
    asked = [entry["message"]["content"] for entry in map(json.loads, lines) if entry["type"] == "user"]
    for line in sys.stdin:
        received = json.loads(line)
        if received["type"] == "control_request":
            done = {"subtype": "success", "request_id": received["request_id"], "response": {}}
            send(type="control_response", response=done)
        elif received["type"] == "user":
            asked.append(received["message"]["content"])
            text = f"You have said {len(asked)} things, and the first was {asked[0]!r}."
            about = {"sessionId": session_id, "cwd": str(Path.cwd()), "timestamp": "2026-01-01T00:00:00.000Z"}
            answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
            entries = [
                {"type": "user", "uuid": str(uuid.uuid4()), "message": received["message"], **about},
                {"type": "assistant", "uuid": str(uuid.uuid4()), "message": answer, **about},
            ]
            send(type="transcript_mirror", filePath=str(transcript), entries=entries)
            ended = {"duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 1, "result": text}
            send(type="result", subtype="success", session_id=session_id, **ended)


if __name__ == "__main__":
    main(sys.argv[1:])
