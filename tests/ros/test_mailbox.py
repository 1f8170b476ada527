"""The mailbox keeps the newest sweep, and closing it releases the reader."""

import threading

from lidar_completion_ros.scheduling.mailbox import Mailbox


def test_newest_item_replaces_a_waiting_one():
    mailbox = Mailbox()
    assert [mailbox.put(item) for item in "abc"] == [False, True, True]
    assert mailbox.take() == "c"
    assert not mailbox.put("d")


def test_closing_releases_a_waiting_reader():
    mailbox, taken = Mailbox(), []
    reader = threading.Thread(target=lambda: taken.append(mailbox.take()))
    reader.start()
    assert not mailbox.close()
    reader.join(10)
    assert taken == [None]
    assert mailbox.put("late")
    assert mailbox.take() is None


def test_closing_reports_a_discarded_item():
    mailbox = Mailbox()
    mailbox.put("waits")
    assert mailbox.close()
    assert mailbox.take() is None
    assert not mailbox.close()


def test_slow_reader_gets_items_in_order_and_once():
    mailbox, taken = Mailbox(), []

    def read():
        while (item := mailbox.take()) is not None:
            taken.append(item)

    reader = threading.Thread(target=read)
    reader.start()
    replaced = sum(mailbox.put(item) for item in range(1, 2001))
    while not taken or taken[-1] != 2000:
        pass
    mailbox.close()
    reader.join(10)
    assert taken == sorted(set(taken))
    assert len(taken) + replaced == 2000
