"""Pairs of texts of which the second follows from the first: tasks that a model of sequences can solve exactly."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

import torch

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
MOST_DIGITS = 16
Pair = tuple[str, str]


def sort(count: int, generator: torch.Generator) -> list[Pair]:
    """1 to 16 digits, all lengths and all digits equally likely, and the same digits in order."""
    lengths = torch.randint(1, MOST_DIGITS + 1, (count,), generator=generator).tolist()
    digits = torch.randint(10, (count, MOST_DIGITS), generator=generator).tolist()
    sources = ["".join(map(str, row[:length])) for row, length in zip(digits, lengths, strict=True)]
    return [(source, "".join(sorted(source))) for source in sources]


def dates(count: int, generator: torch.Generator) -> list[Pair]:
    """A day of 1900 to 2099, written in one of five ways, and as ISO 8601 has it."""
    days = torch.randint((LAST - FIRST).days + 1, (count,), generator=generator).tolist()
    ways = torch.randint(len(WAYS), (count,), generator=generator).tolist()
    drawn = [FIRST + timedelta(day) for day in days]
    return [(WAYS[way](day), day.isoformat()) for day, way in zip(drawn, ways, strict=True)]


def _month(day: date) -> str:
    return MONTHS[day.month - 1]


WAYS: tuple[Callable[[date], str], ...] = (  # names in English, whatever the language of the machine
    lambda day: f"{day.day} {_month(day)} {day.year}",
    lambda day: f"{_month(day)} {day.day}, {day.year}",
    lambda day: f"{day.day} {_month(day)[:3]} {day.year}",
    lambda day: f"{_month(day)[:3]} {day.day} {day.year}",
    lambda day: f"{DAYS[day.weekday()]}, {day.day} {_month(day)} {day.year}",
)


class Task(NamedTuple):
    """A task: its pairs, the characters of both texts, and the most that each has, with one more for their end."""

    draw: Callable[[int, torch.Generator], list[Pair]]
    alphabet: str
    source_length: int
    target_length: int


LETTERS = "".join(sorted(set("".join((*MONTHS, *DAYS)))))
TASKS = {
    "dates": Task(dates, " ,-0123456789" + LETTERS, 29, 11),
    "sort": Task(sort, "0123456789", MOST_DIGITS + 1, MOST_DIGITS + 1),
}
