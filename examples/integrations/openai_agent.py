"""An agent of the OpenAI Agents SDK that knows its conversation."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from redis_store.integrations.openai_agents import ConversationSession

session = ConversationSession("chat-1", user="demo")  # the store


class CountingModel(Model):
    """In place of a model that has to be paid: it says how much of the conversation it was given."""

    async def get_response(self, *_: Any, **given: Any) -> ModelResponse:
        asked = [item["content"] for item in given["input"] if item.get("role") == "user"]
        text = f"You have said {len(asked)} things, and the first was {asked[0]!r}."
        part = ResponseOutputText(type="output_text", text=text, annotations=[])
        message = ResponseOutputMessage(id="1", type="message", role="assistant", status="completed", content=[part])
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


set_tracing_disabled(True)
agent = Agent(name="guide", model=CountingModel())


async def main(questions: list[str]) -> None:
    for question in questions:
        result = await Runner.run(agent, question, session=session)
        print(result.final_output)


asyncio.run(main(sys.argv[1:]))
