"""Threads of the compiled loops, beside those of PyTorch."""

import threading
import time

import pytest
import torch

from lidar_completion.sparse.compiled import in_parallel, loop_threads, loops_have_the_cores


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_pieces():
    def square(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number * number

    assert in_parallel(square, [(number,) for number in range(20)]) == [number * number for number in range(20)]
    assert in_parallel(square, []) == []


def test_the_calling_thread_and_one_other_work():
    both = threading.Barrier(2, timeout=10)  # passed only if both pieces run at the same time

    def thread() -> int:
        both.wait()
        return threading.get_ident()

    found = in_parallel(thread, [(), ()])
    assert threading.get_ident() in found
    assert len(set(found)) == 2


@pytest.mark.parametrize("bad", range(4))
def test_an_error_in_any_piece_is_raised(bad: int):
    def fail(number: int) -> None:
        time.sleep(0.005)  # so that both threads get pieces
        if number == bad:
            raise ValueError(f"piece {number}")

    with pytest.raises(ValueError, match=f"piece {bad}"):
        in_parallel(fail, [(number,) for number in range(4)])


def test_loops_within_loops_end():
    def inner(number: int) -> int:
        return sum(in_parallel(lambda k: k, [(k,) for k in range(number)]))

    assert in_parallel(inner, [(number,) for number in range(30)]) == [n * (n - 1) // 2 for n in range(30)]


def test_operators_of_this_thread_alone_use_one_thread():
    seen = []
    other = threading.Thread(target=lambda: seen.append((torch.get_num_threads(), loop_threads())))
    with loops_have_the_cores():
        assert (torch.get_num_threads(), loop_threads()) == (1, 2)
        with loops_have_the_cores():
            assert (torch.get_num_threads(), loop_threads()) == (1, 2)
        other.start()
        other.join()
    assert (torch.get_num_threads(), loop_threads()) == (2, 2)
    assert seen == [(2, 2)]


def test_threads_are_restored_after_an_error():
    with pytest.raises(ValueError, match="no sweep"), loops_have_the_cores():
        raise ValueError("no sweep")
    torch.set_num_threads(1)
    assert (torch.get_num_threads(), loop_threads()) == (1, 1)
