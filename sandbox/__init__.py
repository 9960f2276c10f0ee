"""Run agents, each in its own isolated process, with a user's `data_store` as a global."""

import logging

from redis_store import __version__ as __version__
from redis_store.values.printable import PrintableRecords
from sandbox import errors
from sandbox.consumers.batches import ConsumerEvent
from sandbox.consumers.consumer import Consumer, on_change
from sandbox.errors import *  # noqa: F403
from sandbox.given.options import RunOptions, SandboxOptions, StartOptions
from sandbox.handle import RunHandle
from sandbox.kept_runs import KeptRuns
from sandbox.limits import Limits
from sandbox.permissions import Permissions
from sandbox.pool import Sandbox
from sandbox.result import Call, Hint, Operation, RunResult
from sandbox.runner import arun, run

__all__ = [
    "Call",
    "Consumer",
    "ConsumerEvent",
    "Hint",
    "KeptRuns",
    "Limits",
    "Operation",
    "Permissions",
    "RunHandle",
    "RunOptions",
    "RunResult",
    "Sandbox",
    "SandboxOptions",
    "StartOptions",
    "arun",
    "on_change",
    "run",
]
__all__ += errors.__all__

logging.getLogger(__name__).addHandler(logging.NullHandler())
logging.getLogger(__name__).addFilter(PrintableRecords())
