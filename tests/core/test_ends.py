"""Signals that ask a process to end: in order, with the code that says which it was, and not where they would cut."""

import os
import pty
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tgt_ray.core import ends


@pytest.fixture(autouse=True)
def as_before(signals_as_usual):
    handlers = {number: signal.getsignal(number) for number in ends.ALL}
    yield
    assert {number: signal.getsignal(number) for number in ends.ALL} == handlers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_do_what_ctrl_c_does(number, code):
    with pytest.raises(KeyboardInterrupt), ends.in_order():
        signal.raise_signal(number)
    assert ends.exit_code() == code


def test_whatever_ctrl_c_does_at_the_time():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with ends.in_order():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_process_that_ignores_ctrl_c_can_be_ended_all_the_same():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do with a command in the background
    try:
        with pytest.raises(KeyboardInterrupt), ends.in_order():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ends.in_order():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_wait_until_a_block_is_over():
    done = []
    with pytest.raises(KeyboardInterrupt), ends.in_order():
        with ends.later():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            done.append("the whole block")
        done.append("more")
    assert done == ["the whole block"]


def test_a_second_signal_needn_t_wait():
    done = []
    with pytest.raises(KeyboardInterrupt), ends.in_order(), ends.later(patient=False):
        signal.raise_signal(signal.SIGTERM)
        done.append("after the first")
        signal.raise_signal(signal.SIGTERM)
        done.append("after the second")
    assert done == ["after the first"]


def test_a_handler_of_ctrl_c_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError), ends.restored(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_signals():
    def block():
        with ends.later():
            return "done"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(block).result() == "done"


def test_the_start_of_ray_does_not_change_what_sigterm_does():
    def start():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    with ends.in_order():
        ours = signal.getsignal(signal.SIGTERM)
        with ends.later(patient=False):
            start()
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(KeyboardInterrupt), ends.later(patient=False):
            start()
            signal.raise_signal(signal.SIGTERM)


HANGS_UP = """
import signal, sys, time
from tgt_ray.core import ends
signal.signal(signal.SIGHUP, signal.SIG_DFL)
try:
    with ends.in_order():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("a line for the terminal", flush=True)
    print("and one more", file=sys.stderr, flush=True)
    sys.exit(ends.exit_code())
"""


def test_a_lost_terminal_changes_nothing_but_that_nobody_reads():
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", HANGS_UP], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        assert b"ready" in os.read(ours, 100)
        os.close(ours)
        process.send_signal(signal.SIGHUP)  # the kernel sends it where the terminal is the process's own
        assert process.wait(timeout=20) == 129


def test_a_thread_lets_the_command_fail_as_a_signal_would_end_it():
    with pytest.raises(KeyboardInterrupt), ends.in_order():
        assert ends.is_ordered()
        ends.fail("what it waits for is gone")
        signal.pause()
    assert ends.failure() == "what it waits for is gone" and not ends.is_ordered()


def test_what_a_signal_has_ended_did_not_fail():
    with pytest.raises(KeyboardInterrupt), ends.in_order():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            ends.fail("its processes have ended as well")
    assert ends.failure() is None and ends.exit_code() == 129


def test_outside_of_commands_it_is_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        ends.fail("what it waits for is gone")
        signal.pause()
