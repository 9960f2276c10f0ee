"""Operations for operators and services, over all users of a server; the commands of `redis-store` are made of them.

from redis_store.admin import Admin

with Admin("redis://localhost:6379") as admin:
    for user in admin.list_users(by="memory"):
        print(user.user, user.bytes)
"""

from redis_store.admin.aio import AsyncAdmin
from redis_store.admin.changing import Deleted
from redis_store.admin.doctor import Finding
from redis_store.admin.follow_async import AsyncFollowedChanges
from redis_store.admin.follow_sync import FollowedChanges
from redis_store.admin.importing import Imported, KeptKey
from redis_store.admin.letters import RetryOutcome
from redis_store.admin.logins import NewLogin, UserLogin
from redis_store.admin.moving import Exported
from redis_store.admin.records import (
    AuditEntry,
    CacheRate,
    ChangeRecord,
    ComputedValue,
    ConsumerState,
    DeadLetter,
    HeldLock,
    NamespaceUsage,
    RateLimitState,
    SearchHit,
    ServerStats,
    TagUsage,
    UserUsage,
)
from redis_store.admin.sync import Admin
from redis_store.admin.usage import UsageOrder
from redis_store.ops.run_record import KeptCall, KeptHint, KeptOperation, KeptRun, RunError, RunSummary

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncFollowedChanges",
    "AuditEntry",
    "CacheRate",
    "ChangeRecord",
    "ComputedValue",
    "ConsumerState",
    "DeadLetter",
    "Deleted",
    "Exported",
    "Finding",
    "FollowedChanges",
    "HeldLock",
    "Imported",
    "KeptCall",
    "KeptHint",
    "KeptKey",
    "KeptOperation",
    "KeptRun",
    "NamespaceUsage",
    "NewLogin",
    "RateLimitState",
    "RetryOutcome",
    "RunError",
    "RunSummary",
    "SearchHit",
    "ServerStats",
    "TagUsage",
    "UsageOrder",
    "UserLogin",
    "UserUsage",
]
