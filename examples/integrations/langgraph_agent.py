"""A LangGraph agent with memory: it knows its conversation, and what it was told to remember in any other."""

import sys

from langchain_core.language_models import SimpleChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime

from redis_store.integrations.langgraph import LangGraphSaver, LangGraphStore

checkpointer, memories = LangGraphSaver(user="demo"), LangGraphStore(user="demo")  # the store


class CountingModel(SimpleChatModel):
    """In place of a model that has to be paid: it says how much of the conversation it was given."""

    def _call(self, messages: list[BaseMessage], *_: object, **__: object) -> str:
        asked = [str(message.content) for message in messages if isinstance(message, HumanMessage)]
        return f"You have said {len(asked)} things, and the first was {asked[0]!r}."

    @property
    def _llm_type(self) -> str:
        return "counting"


model = CountingModel()


def remember(state: MessagesState, runtime: Runtime) -> None:
    text = str(state["messages"][-1].content)
    if text.startswith("Remember: "):
        runtime.store.put(("facts", "ada"), text.removeprefix("Remember: "), {"text": text})


def answer(state: MessagesState, runtime: Runtime) -> dict[str, list[BaseMessage]]:
    facts = sorted(item.key for item in runtime.store.search(("facts", "ada")))
    reply = model.invoke(state["messages"])
    return {"messages": [AIMessage(f"{reply.content} I remember {facts}.")]}


graph = StateGraph(MessagesState)
graph.add_node(remember)
graph.add_node(answer)
graph.add_edge(START, "remember")
graph.add_edge("remember", "answer")
agent = graph.compile(checkpointer=checkpointer, store=memories)

for question in sys.argv[1:]:
    state = agent.invoke({"messages": [HumanMessage(question)]}, {"configurable": {"thread_id": "chat-1"}})
    print(state["messages"][-1].content)
