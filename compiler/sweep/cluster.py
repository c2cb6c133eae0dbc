"""Tasks on a Dask cluster, where one machine is not enough.

The scheduler gives the tasks of a worker that is lost to another one. What a task needs travels with it, so that
workers need no files beside the same version of tilescore.
"""

from collections.abc import Mapping

from ...rtl.spec.errors import ToolError
from .pool import Done
from .tasks import Task, outcome_of, sources_digest

CONNECT_S = 20


def run_on_cluster(tasks: Mapping[str, Task], scheduler: str, done: Done) -> None:
    """Measure {digest: task} on the workers of the scheduler at an address such as tcp://machine:8786.

    Raises `ToolError` where Dask is missing or no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ToolError("--scheduler: needs the package distributed: pip install 'tilescore[dask]'") from None
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ToolError(f"--scheduler {scheduler}: no scheduler answers: {str(error).splitlines()[0]}") from None
    with client:
        futures = {client.submit(outcome_of, task, sources_digest(), key=f"tilescore-{digest}"): digest
                   for digest, task in tasks.items()}
        try:
            for future in as_completed(list(futures), loop=client.loop):
                error = future.exception()
                done(futures[future], error or future.result())
                future.release()
        finally:
            client.cancel(list(futures))
