"""A mailbox with one slot between the subscription and the worker: the newest sweep replaces a waiting one."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item, so that a slow reader never works on stale sweeps. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Store `item` without waiting. True if an item was discarded: a waiting one, or this one after `close`."""
        with self._changed:
            if self._closed:
                return True
            replaced = self._item is not None
            self._item = item
            self._changed.notify()
            return replaced

    def take(self) -> Item | None:
        """Wait for an item and remove it. None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return item

    def close(self) -> bool:
        """Release readers that wait in `take`. True if a waiting item was discarded."""
        with self._changed:
            discarded, self._item, self._closed = self._item is not None, None, True
            self._changed.notify_all()
            return discarded
