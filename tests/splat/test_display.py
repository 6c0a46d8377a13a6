"""What the display says about the time that is left."""

import io

import pytest
from rich.console import Console

from l2o_splat.splat.display import Display, spoken


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def shown():
    clock, text = Clock(), io.StringIO()
    parts = [("poses", 40.0), ("training", 60.0), ("results", 20.0)]
    with Display(parts, Console(file=text, width=200), clock) as display:
        yield clock, text, display


def test_the_time_left_is_that_of_all_parts(shown):
    clock, text, display = shown
    assert "about 2:00 min" in text.getvalue()
    display.begin("poses")
    clock.seconds = 10.0
    assert display.seconds_left == pytest.approx(110.0)
    display.end("poses", "15 of 15 photographs")
    assert display.seconds_left == pytest.approx(80.0)
    assert "poses: done in 10 s: 15 of 15 photographs" in text.getvalue()


def test_a_part_that_is_slower_than_expected_moves_the_end(shown):
    clock, _, display = shown
    display.begin("poses")
    clock.seconds = 60.0
    display.update("poses", 0.75)
    # A quarter of what took 80 s in all is left, weighed by what is known of it.
    assert display.seconds_left == pytest.approx(80.0 + 0.75 * 20.0)


def test_a_part_that_knows_its_time_is_believed(shown):
    _, _, display = shown
    display.begin("training")
    display.update("training", 0.5, left=7.0)
    assert display.seconds_left == pytest.approx(40.0 + 7.0 + 20.0)


def test_lines_are_few_without_a_terminal(shown):
    clock, text, display = shown
    display.begin("training")
    for second in range(25):
        clock.seconds = float(second)
        display.update("training", second / 25, f"{second} dB")
    lines = [line for line in text.getvalue().splitlines() if line.startswith("training")]
    assert [line.rpartition(": ")[2] for line in lines[1:]] == ["10 dB", "20 dB"]


def test_remarks_are_printed_as_they_are(shown):
    _, text, display = shown
    display.say("WARNING: [1] of 2 photographs")
    assert text.getvalue().splitlines()[-1] == "WARNING: [1] of 2 photographs"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min")])
def test_durations_in_words(seconds, text):
    assert spoken(seconds) == text
