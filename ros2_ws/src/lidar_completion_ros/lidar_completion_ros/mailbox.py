"""The one-slot mailbox between the subscription and the inference thread: the latest sweep wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item. A new item replaces one that waits, so that a slow reader never works on stale sweeps."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Leave `item`, without waiting. True if it replaced an item that nobody took, or if the mailbox is closed."""
        with self._changed:
            if self._closed:
                return True
            replaced = self._item is not None
            self._item = item
            self._changed.notify()
            return replaced

    def take(self) -> Item | None:
        """Wait for an item and take it. None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return item

    def close(self) -> bool:
        """Release whoever waits in `take`. True if an item waited, which nobody gets any more."""
        with self._changed:
            left, self._item, self._closed = self._item is not None, None, True
            self._changed.notify_all()
            return left
