"""A signal ends at once what would be begun anew, and is looked at after a step that is worth saving."""

import os
import signal
import time

import pytest

from rlhf.run.interrupts import Interrupted, Stopped


@pytest.fixture
def interrupted():
    listener = Interrupted()
    yield listener
    listener.stop_listening()


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_before_anything_is_done_it_ends_at_once(interrupted: Interrupted) -> None:
    with pytest.raises(Stopped) as caught:
        send()
    assert caught.value.code == 128 + signal.SIGTERM


def test_later_it_is_only_remembered(interrupted: Interrupted) -> None:
    interrupted.at_once = False
    assert not interrupted
    send(signal.SIGINT)
    assert interrupted
    assert interrupted.exit_code == 128 + signal.SIGINT


def test_an_evaluation_ends_in_the_middle_and_does_not_begin(interrupted: Interrupted) -> None:
    interrupted.at_once = False
    with pytest.raises(Stopped), interrupted.handled(at_once=True):
        send()
    began = False
    with pytest.raises(Stopped), interrupted.handled(at_once=True):
        began = True
    assert not began


def test_what_must_not_be_cut_is_seen_through(interrupted: Interrupted) -> None:
    through = []

    def work() -> None:
        with interrupted.handled(at_once=False):
            send()
            through.append(True)

    with pytest.raises(Stopped):
        work()
    assert through


def test_a_second_one_ends_the_process_but_not_an_echo_of_the_first(interrupted: Interrupted, monkeypatch) -> None:
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    interrupted.at_once = False
    send()
    send()  # a launcher hands on what the terminal sent to all
    assert ended == []
    interrupted._at -= 2
    send()
    assert ended == [128 + signal.SIGTERM]


def test_a_terminal_that_is_gone_ends_it_too_unless_it_is_to_be_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        listener = Interrupted()
        with pytest.raises(Stopped):
            send(signal.SIGHUP)
        listener.stop_listening()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
        listener = Interrupted()
        send(signal.SIGHUP)
        assert not listener
        listener.stop_listening()
    finally:
        signal.signal(signal.SIGHUP, before)
