"""Work done ahead by threads, handed over in order, within a number of bytes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar
from weakref import WeakSet

START_AHEAD = 8
START_AHEAD_PER_THREAD = 4
Task = TypeVar("Task")
Result = TypeVar("Result")


class OrderedPrefetch(Generic[Task, Result]):
    """Runs `work` on tasks in a pool of threads, and yields the results in the order of the tasks.

    Results are the same for any number of threads. Tasks are started while there is room for the bytes of started and
    unreturned ones, and no more than keep the threads busy; one is always allowed. Nothing is started outside a call of
    `next`, so that the caller can share the room with others.
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        tasks: Iterator[tuple[Task, int]],
        *,
        threads: int,
        has_room: Callable[[int], bool],
        name: str = "sam3ft-decode",
    ) -> None:
        """Prepare; no thread is started before the first result is asked for.

        Args:
            work: called in a thread with one task.
            tasks: with the bytes that the result of each is expected to hold.
            threads: size of the pool.
            has_room: told the bytes of started and unreturned tasks, returns whether another may start.
            name: of the threads.
        """
        self._work = work
        self._tasks = tasks
        self._has_room = has_room
        self._most = START_AHEAD + START_AHEAD_PER_THREAD * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._started: deque[tuple[Future[Result], int]] = deque()
        self._futures: WeakSet[Future[Result]] = WeakSet()
        self._bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of started and unreturned tasks."""
        return self._bytes

    def next(self) -> Result:
        """Return the result of the next task, after starting as many others as there is room for.

        Raises:
            StopIteration: all tasks are done.
            Exception: whatever `work` raised for this task.
        """
        return self.next_future().result()

    def next_future(self) -> Future[Result]:
        """Return what will be the result of the next task, without waiting for it; else as `next`."""
        self._top_up()
        if not self._started:
            raise StopIteration
        future, size = self._started.popleft()
        self._bytes -= size
        return future

    def close(self, *, grace_s: float | None = None) -> None:
        """Cancel what has not begun and wait for the threads; safe to call twice.

        Args:
            grace_s: threads that work for longer than this are left to end by themselves; None waits for all.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        if grace_s is None or not wait(self._futures, timeout=grace_s).not_done:
            self._pool.shutdown(wait=True)

    def _top_up(self) -> None:
        while not self._started or (len(self._started) < self._most and self._has_room(self._bytes)):
            task = next(self._tasks, None)
            if task is None:
                return
            future = self._pool.submit(self._work, task[0])
            self._futures.add(future)
            self._started.append((future, task[1]))
            self._bytes += task[1]
