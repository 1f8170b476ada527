"""The mailbox: the newest sweep wins, and closing releases the reader."""

import threading

from lidar_completion_ros.mailbox import Mailbox


def test_the_newest_item_replaces_one_that_waits():
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


def test_closing_tells_of_an_item_that_nobody_gets_any_more():
    mailbox = Mailbox()
    mailbox.put("waits")
    assert mailbox.close()
    assert mailbox.take() is None
    assert not mailbox.close()


def test_a_slow_reader_gets_items_in_order_and_each_once():
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
