"""Images of a store asked for ahead of their decoding, by threads that only wait."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.prefetch import OrderedPrefetch
from sam3ft_trainer.data.remote import FETCH_THREADS

LOOK_S = 0.25
"""A thread that waits for an image looks this often whether it is still wanted."""
GRACE_S = 1.0
"""Requests under way that are answered within this time are waited for when a reader is closed."""
Reading = Callable[[], bytes]


class NoLongerWanted(Exception):
    """The reader was closed while an image was on its way."""


class FetchAhead:
    """Hands out readings of images, in order, that were begun earlier.

    For a folder a reading reads when it is called, and nothing is begun. A request that a store leaves unanswered does
    not hold up `close`: its thread ends by itself. `next` and `close` are for one thread, readings for any.
    """

    def __init__(self, dataset: CocoDataset, image_ids: Iterator[int], *, has_room: Callable[[int], bool]) -> None:
        """Prepare; nothing is begun before the first reading is asked for.

        Args:
            dataset: that has the images.
            image_ids: in the order in which they will be asked for.
            has_room: told the bytes that are fetched or on their way and not handed out, says whether another may
                begin; one always may.
        """
        self._dataset, self._image_ids = dataset, image_ids
        self._is_closed = threading.Event()
        self._ahead: OrderedPrefetch[int, bytes] | None = None
        if dataset.is_remote:
            self._ahead = OrderedPrefetch(
                self._read,
                ((image_id, dataset.num_bytes(image_id)) for image_id in image_ids),
                threads=FETCH_THREADS,
                has_room=has_room,
                name="sam3ft-fetch",
            )

    @property
    def num_bytes(self) -> int:
        """Bytes that are fetched or on their way, and not handed out."""
        return 0 if self._ahead is None else self._ahead.num_bytes

    def next(self) -> Reading:
        """Return the reading of the next image; calling it waits for the bytes, and raises what fetching them raised.

        Raises:
            StopIteration: there is no further image.
        """
        if self._ahead is None:
            image_id = next(self._image_ids)
            return lambda: self._dataset.read_image(image_id)
        future = self._ahead.next_future()
        return lambda: self._result(future)

    def close(self) -> None:
        """Begin nothing more and let waiting readings go; safe to call twice."""
        self._is_closed.set()
        if self._ahead is not None:
            self._ahead.close(grace_s=GRACE_S)

    def _read(self, image_id: int) -> bytes:
        return self._dataset.read_image(image_id, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        if self._is_closed.wait(seconds):
            raise NoLongerWanted

    def _result(self, future: Future[bytes]) -> bytes:
        while not self._is_closed.is_set():
            if wait([future], timeout=LOOK_S).done:
                return future.result()
        raise NoLongerWanted
