"""The time that learning still takes, by the share that is done and the clock."""

import pytest
from stylediffusion_pack.stylediffusion.host.learn import time_left


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def heard(shares: list[tuple[float, float]]) -> list[str]:
    """What is said by the end, from (seconds after the start, share done) of every call."""
    clock, said = Clock(), list[str]()
    left = time_left.TimeLeft(said.append, clock)
    for seconds, share in shares:
        clock.now = 100.0 + seconds
        left.done(share)
    left.end("learnt in")
    return said


def test_the_time_left_is_what_is_undone_at_the_pace_so_far() -> None:
    assert heard([(0, 0.0), (10, 0.25), (20, 0.8)]) == [
        "0:30 left", "0:05 left", "learnt in 0:20"]


def test_what_was_done_in_an_earlier_run_says_nothing_about_the_pace() -> None:
    assert heard([(0, 0.5), (60, 0.75)]) == ["1:00 left", "learnt in 1:00"]


def test_nothing_is_said_at_once_nor_more_than_once_a_second() -> None:
    shares = [(i / 10, i / 100) for i in range(101)]
    said = heard(shares)
    assert said[0] == "0:08 left" and len(said) == 9
    assert heard([(0, 0.0), (1, 0.5), (1.9, 1.0)]) == []


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0:00"), (7, "0:07"), (59.6, "1:00"), (750, "12:30"), (3750, "1:02:30")])
def test_a_time_is_written_as_a_clock_shows_it(seconds: float, text: str) -> None:
    assert time_left.minutes(seconds) == text


def test_without_a_running_node_there_is_nothing_to_show_it_on() -> None:
    time_left.on_node("0:07 left")
