"""A session of the Claude Agent SDK: each run of this program goes on with the latest session of this folder."""

import asyncio
import os
import sys

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query

from redis_store.integrations.claude_sessions import TranscriptStore

sessions = TranscriptStore(user="demo")  # the store


async def main(questions: list[str]) -> None:
    options = ClaudeAgentOptions(
        session_store=sessions,
        continue_conversation=True,
        cli_path=os.environ.get("CLAUDE_CLI"),  # another program than the SDK's own Claude Code
    )
    for question in questions:
        async for message in query(prompt=question, options=options):
            if isinstance(message, ResultMessage):
                print(message.result)


asyncio.run(main(sys.argv[1:]))
