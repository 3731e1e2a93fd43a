"""A grid of notebook runs on Dask: on this machine's cores, or on any cluster.

    for progress in sweep(plan(load_grid("notebooks/grids/figure1.yaml"), "runs/figure1")):
        print(progress.summary())

The generator yields how things stand; the command line, a notebook and a log are views of it.
Nothing is lost whatever dies: a run continues from its last test, under the same command.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, Security, wait
from distributed.comm import connect
from distributed.core import send_recv
from distributed.scheduler import KilledWorker

from ovmse.runs.code import learning_code_key
from ovmse.runs.reading import RunError
from ovmse.sweep.fingerprint import difference, fingerprint, mark_folder
from ovmse.sweep.grid import NotebookRun, Plan
from ovmse.sweep.progress import SweepProgress, Watched
from ovmse.sweep.worker import (
    IgnoreInterrupt,
    Outcome,
    Terms,
    descendants,
    execute,
    kill,
    record_failure,
    recorded,
    stop_notebooks,
)

# A run whose kernel died, or four of its workers (then Dask gives up on it), is handed out again,
# unless that happens so often in a row without a further test.
GIVE_UPS = 5
MISMATCHES = 3  # workers in a row that differ: then the next will differ too
ANSWER = 10.0  # seconds for a scheduler to answer; what is no scheduler may never do so
ELSEWHERE = 5.0  # seconds until a run that another sweep has is first asked for again


def default_workers() -> int:
    """The cores that this process may use, as the system and a container's limits say."""
    return CPU_COUNT


def sweep(
    plan: Plan,
    workers: int | None = None,
    scheduler: str | None = None,
    timeout: float | None = None,
    retry_failed: bool = False,
    interval: float = 1.0,
) -> Iterator[SweepProgress]:
    """Runs what is not done yet; yields the state every ``interval`` seconds and at the end.

    workers: processes on this machine, by default one for each core; or scheduler: the address of
    a Dask cluster whose workers see the same folders. timeout: seconds for one notebook. Runs that
    failed earlier stay so, unless ``retry_failed``; the plan's last ones are always tried. Closing
    the generator stops every notebook.

    Raises RunError with one sentence if the folder cannot be written, if a worker differs from this
    process in what decides the results, or if the scheduler is lost. What is done is kept.
    """
    state = SweepProgress([Watched(run, retry_failed) for run in plan.runs])
    waiting = sum(one.state == "waiting" for one in state.runs)
    if waiting or (_stale(plan) and not state.failed()):
        try:
            mark_folder(plan.folder)
        except OSError as error:
            raise RunError(f"{plan.folder} cannot be written: {error.strerror}") from None
        if plan.folder.name != f"code-{learning_code_key()}":
            raise RunError("the learning code changed since the grid was planned; plan it anew")
        expected = plan.fingerprint()
        workers = min(workers or default_workers(), max(1, waiting))
        name = uuid.uuid4().hex
        with _cluster(name, scheduler, workers) as client:
            state.where = client.scheduler.address
            _require_alike(client, plan, expected)
            terms = Terms(name, expected, plan.asked(), timeout)
            hand_out = _HandOut(client, plan, terms, workers)
            yield from hand_out.run(state, interval)
            if not state.failed():
                state.runs += [Watched(run, retry_failed, anew=True) for run in _stale(plan)]
                yield from hand_out.run(state, interval)
    yield state


def _stale(plan: Plan) -> list[NotebookRun]:
    """Of the notebooks that look at all runs those that have not seen the newest."""
    newest = max((recorded(run.folder) for run in plan.runs), default=0.0)
    return [run for run in plan.last if recorded(run.folder) <= newest]


class _HandOut:
    """Hands runs to workers, no more than can run, so that they start in order."""

    def __init__(self, client: Client, plan: Plan, terms: Terms, workers: int) -> None:
        self.client, self.plan, self.terms = client, plan, terms
        self.workers = workers  # of a local cluster
        # One more than a cluster has room for: one that adapts grows only where work waits.
        self.spare = 1 if client.cluster is None else 0
        self.submitted = self.mismatches = 0

    def run(self, state: SweepProgress, interval: float) -> Iterator[SweepProgress]:
        queue = deque(one for one in state.runs if one.state == "waiting")
        active: dict[Future, Watched] = {}
        while queue or active:
            state.workers = self._workers()
            for _ in range(min(state.workers + self.spare - len(active), len(queue))):
                if queue[0].not_before > time.monotonic():
                    queue.rotate(-1)
                    continue
                one = queue.popleft()
                one.start()
                active[self._submit(one)] = one
            for number, one in enumerate(active.values()):
                one.queued = number >= state.workers
            yield state
            if active:
                with self.client.as_current(), suppress(TimeoutError, CancelledError):
                    wait(list(active), interval, "FIRST_COMPLETED")
            else:
                time.sleep(interval)
            for future in [future for future in active if future.done()]:
                one = active.pop(future)
                if self._settle(one, future) == "waiting":
                    queue.append(one)

    def _workers(self) -> int:
        """How many workers are there; raises RunError if the scheduler is lost."""
        try:
            if self.client.status == "running":
                there = len(self.client.ncores())
                if self.client.cluster is not None and there < self.workers:
                    # Dask restarts a worker that dies, but not one that dies while it starts.
                    self.client.cluster.scale(self.workers)
                return there
        except (OSError, TimeoutError):
            pass
        raise _lost(self.client)

    def _submit(self, one: Watched) -> Future:
        self.submitted += 1
        key = f"sweep-{self.terms.sweep}-{self.submitted}"
        return self.client.submit(execute, one.run, self.terms, one.attempts, key=key)

    def _settle(self, one: Watched, future: Future) -> str:
        """The run's state after this attempt; "waiting" if it is to be handed out again."""
        if future.status == "finished":
            try:
                outcome: Outcome = future.result(timeout=5)
            except Exception:  # the worker died with the answer; the run's record has it
                outcome = Outcome("stopped")
        elif future.status == "error":
            outcome = self._died(one, future.exception())
        else:  # cancelled or lost, with the scheduler
            outcome = Outcome("stopped")
        if outcome.state == "folder":
            raise RunError(
                f"cannot write ({outcome.error}); what is done in {self.plan.folder} is kept, and "
                "the same command continues once that is mended"
            )
        if outcome.state == "died":
            outcome = self._again(one, outcome.error)
        self.mismatches = self.mismatches + 1 if outcome.state == "mismatch" else 0
        if outcome.state == "mismatch":
            self._retire(outcome)
        one.elsewhere = one.elsewhere + 1 if outcome.state == "elsewhere" else 0
        if one.elsewhere:
            one.not_before = time.monotonic() + ELSEWHERE * min(one.elsewhere, 6)
        one.error = outcome.error if outcome.state == "failed" else ""
        one.state = outcome.state if outcome.state in ("done", "failed") else "waiting"
        return one.state

    def _died(self, one: Watched, error: BaseException | None) -> Outcome:
        """The run's workers died, or could not even begin."""
        if not isinstance(error, KilledWorker):
            _require_alike(self.client, self.plan, self.terms.expected)
        return self._again(one, _first_line(error))

    def _again(self, one: Watched, why: str) -> Outcome:
        """Once more, unless it has died too often without getting further."""
        reached = one.reached()
        one.give_ups = 1 + (one.give_ups if reached == one.reached_then else 0)
        one.reached_then = reached
        if one.give_ups < GIVE_UPS:
            return Outcome("stopped")
        what = f"died {GIVE_UPS} times without a further test ({why})"
        record_failure(one.run, what)
        return Outcome("failed", what)

    def _retire(self, outcome: Outcome) -> None:
        mine = difference(self.terms.expected, self.plan.fingerprint())
        if mine:
            raise RunError(
                f"changed while the sweep ran: {mine}; what is done is kept, and the same command "
                "runs anew what that decides"
            )
        logging.getLogger(__name__).warning(
            "worker %s is not used: it has %s", outcome.worker, outcome.error
        )
        if self.client.cluster is not None:
            return  # it read while a file was being replaced
        self.client.retire_workers([outcome.worker], close_workers=True)
        if self.mismatches >= MISMATCHES or not self.client.ncores():
            raise RunError(f"no worker is left that is alike: {outcome.worker} has {outcome.error}")


def _require_alike(client: Client, plan: Plan, expected: dict[str, str]) -> None:
    """Every worker that is there now has what this process has; the scheduler has the project."""
    try:
        client.run_on_scheduler(difference, {}, {})
    except (OSError, TimeoutError):
        raise _lost(client) from None
    except Exception as error:  # of any kind: what an import raises
        raise RunError(
            f"the scheduler at {client.scheduler.address} cannot import the project "
            f"({_first_line(error)}); start it with the project's own Python"
        ) from None
    for worker, threads in client.ncores().items():
        if threads != 1:
            raise RunError(f"worker {worker} has {threads} threads, allowed: --nthreads 1")
    found: dict[str, Any] = client.run(fingerprint, *plan.asked(), on_error="return")
    for worker, theirs in found.items():
        if isinstance(theirs, OSError | TimeoutError):
            continue  # it died meanwhile; each is compared again before a run
        if isinstance(theirs, BaseException):
            raise RunError(f"worker {worker} cannot be asked what it has: {theirs}")
        if differs := difference(expected, theirs):
            raise RunError(f"worker {worker} has {differs}")


@contextmanager
def _cluster(sweep: str, scheduler: str | None, workers: int) -> Iterator[Client]:
    """A client of the given scheduler, or of a local cluster that listens on 127.0.0.1.

    Whatever ends the block early stops the notebooks that still run.
    """
    with ExitStack() as stack:
        if scheduler is None:
            # Dask's profiler would keep each second of the last hour: half a megabyte a notebook.
            stack.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
            cluster = stack.enter_context(_local_cluster(workers))
            client = stack.enter_context(Client(cluster, set_as_default=False))
            client.register_plugin(IgnoreInterrupt())
        else:
            _require_answer(scheduler)
            client = stack.enter_context(Client(scheduler, set_as_default=False))
        try:
            yield client
        except BaseException:
            _tell_workers(client, sweep)
            if scheduler is None:
                _end([nanny.pid for nanny in list(cluster.workers.values()) if nanny.pid])
            raise


def _tell_workers(client: Client, sweep: str) -> None:
    """Stops this sweep's notebooks; a worker that does not answer is not waited for."""

    def tell() -> None:
        with suppress(Exception):
            client.run(stop_notebooks, sweep, on_error="ignore")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    thread.join(timeout=3)


def _lost(client: Client) -> RunError:
    return RunError(
        f"the scheduler at {client.scheduler.address} is gone; the same command continues"
    )


def _require_answer(scheduler: str) -> None:
    """Tries the address first: a Client that never connected hangs when it is closed."""

    async def reach() -> None:
        async with asyncio.timeout(ANSWER):  # connect's own leaves out the wait for a first word
            comm = await connect(scheduler, **Security().get_connection_args("client"))
            kind = (await send_recv(comm, op="identity"))["type"]
        comm.abort()
        if kind != "Scheduler":
            raise OSError(f"it is a {kind.lower()}")

    with ThreadPoolExecutor(1) as pool:  # a notebook's own thread runs an event loop already
        error = pool.submit(asyncio.run, reach()).exception()
    if error is not None:  # of many kinds: no answer, no certificate, no address
        said = _first_line(error) if str(error) else f"nothing within {ANSWER:g} s"
        if isinstance(error, TypeError):  # what Dask makes of a missing ssl_context
            said = "tls needs certificates in Dask's configuration, distributed.comm.tls"
        raise RunError(f"--scheduler {scheduler} does not answer as Dask's does ({said})")


def _local_cluster(workers: int) -> LocalCluster:
    """Started in a thread of its own: Dask cannot close one whose start was interrupted."""
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(
            LocalCluster,
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=None,  # the kernels, which need most, would not be counted
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # else a fixed port, which a second sweep lacks
            silence_logs=logging.CRITICAL,  # of workers that die or are slow to stop
            env={"OMP_NUM_THREADS": "1"},
        )
        try:
            return starting.result()
        except RuntimeError as error:
            raise RunError(f"Dask's workers did not start ({_first_line(error)})") from None
        except BaseException:
            if starting.exception() is None:  # waits for the start to end
                starting.result().close()
            raise


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _end(workers: list[int]) -> None:
    """Waits a moment for the notebooks of these worker processes, then kills what is left."""
    kernels = [p for worker in workers for p in descendants(worker)]
    _, left = psutil.wait_procs(kernels, timeout=1.5)
    kill(left)
