"""A FastAPI service: each user has a list of notes.

uvicorn examples.integrations.fastapi_service:app
"""

from collections.abc import MutableMapping
from typing import Annotated

from fastapi import Depends, FastAPI, Header

from redis_store import Client
from redis_store.integrations.fastapi import user_store


def user_of(x_user: Annotated[str, Header()]) -> str:
    return x_user  # the user that your authentication has established


notes_of = user_store(Client(), user_of, namespace="notes")  # the store
app = FastAPI()


@app.post("/notes")
def add_note(text: str, notes: Annotated[MutableMapping[str, str], Depends(notes_of)]) -> list[str]:
    notes[f"{len(notes) + 1}"] = text
    return [notes[number] for number in sorted(notes)]
