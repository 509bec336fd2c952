"""Client of Cairn's daemon: a method and a typed result for each command, events as objects, jobs that can be awaited,
and errors as exceptions. `Client` is for threads, `AsyncClient` for asyncio. The module api is made from the daemon's schema."""

from .api import *  # noqa: F403
from .job import AsyncJob as AsyncJob
from .job import ExecResult as ExecResult
from .job import Job as Job
from .wire import CairnError as CairnError
from .wire import ConnectionLost as ConnectionLost
from .wire import Event as Event
from .wire import UnknownEvent as UnknownEvent
from .wire import default_socket as default_socket
