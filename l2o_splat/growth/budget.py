"""How many Gaussians a scene has after each event of growth, and when the events are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.choice import SplitPreference
from l2o_splat.system import available_memory, memory_left_in_container

MOST_EVENTS = 5
LATEST_SHARE = 2 / 3
"""No event in the last third of a run: what is new needs time to settle."""
MEMORY_SHARE = 0.5
"""Share of the free memory that the Gaussians of a grown scene may take."""
ROWS_IN_MEMORY = 8
"""Copies of the packed row of a Gaussian at the peak: parameter, gradient, two moments and two of a learned rule's
state; at an event the old and the new parameters lie side by side."""
MOST_LOOKED_AT, FEWEST_LOOKED_AT = 16, 4
"""Views that an event of growth looks at."""
SHARE_OF_LOOKING = 0.1
"""Share of a budget that all events may take to look at views at full size; short runs look at fewer."""
PIXELS_OF_A_GAUSSIAN = 20.0
"""A scene that grows by its photographs gets a Gaussian for so many pixels of one."""
LEAST_GROWTH, MOST_GROWTH = 2.0, 4.0
"""Fewest and most times as many Gaussians as at the start that such a scene gets."""
BYTES_PER_VIEW = 136
"""What the CPU renderer keeps of a Gaussian for every view of a step: record, tiles and sums of gradients."""


@dataclass(frozen=True)
class GrowthOptions:
    """How far a scene grows, when, and what it loses on the way."""

    factor: float = 2.0
    """Final number of Gaussians, in multiples of the number at the start."""
    final_count: int | None = None
    """Final number of Gaussians; None leaves it to ``factor``."""
    events: int = 5
    """Events of growth, 1 to 5."""
    first_share: float = 0.1
    """Share of the budget spent at the first event."""
    last_share: float = 0.5
    """Share of the budget spent at the last event, at most two thirds."""
    preference: SplitPreference = field(default_factory=SplitPreference)
    """Which Gaussians are split."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"The growth factor is {self.factor}; a number from 1 on is needed, and 1 is no growth.")
        if self.final_count is not None and self.final_count < 1:
            raise ValueError(f"final_count is {self.final_count}; at least 1 is needed, or None to use the factor.")
        if not 1 <= self.events <= MOST_EVENTS:
            raise ValueError(f"There are {self.events} events of growth; 1 to {MOST_EVENTS} are possible.")
        if not 0 < self.first_share <= self.last_share <= LATEST_SHARE:
            raise ValueError(
                f"Growth goes from {self.first_share} to {self.last_share} of the budget; "
                "0 < first_share <= last_share <= 2/3 is needed."
            )

    def count_at_end(self, start: int) -> int:
        """Final number of Gaussians of a scene that started with ``start``; never fewer than those."""
        wanted = round(self.factor * start) if self.final_count is None else self.final_count
        return max(wanted, start)


def views_looked_at(budget: float) -> int:
    """Views that an event of growth looks at.

    Args:
        budget: Of the run, in views that steps at full size could show.
    """
    return round(min(max(SHARE_OF_LOOKING * budget / MOST_EVENTS, FEWEST_LOOKED_AT), MOST_LOOKED_AT))


def growth_by_pixels(pixels: float, num_gaussians: int) -> float:
    """How many times as many Gaussians a scene needs.

    Points of structure from motion are as many at every size of the photographs, which the Gaussians have to fill.

    Args:
        pixels: Of a photograph, their mean.
        num_gaussians: At the start.
    """
    return min(max(pixels / (PIXELS_OF_A_GAUSSIAN * num_gaussians), LEAST_GROWTH), MOST_GROWTH)


def event_shares(options: GrowthOptions) -> tuple[float, ...]:
    """Share of the budget spent at each event, in order, evenly spaced; a single event comes at the first share."""
    if options.events == 1:
        return (options.first_share,)
    spacing = (options.last_share - options.first_share) / (options.events - 1)
    return tuple(options.first_share + spacing * event for event in range(options.events))


def count_at(event: int, start: int, options: GrowthOptions) -> int:
    """Number of Gaussians after an event; every event multiplies it by the same factor.

    Args:
        event: 0 for the first; those after the last one leave the number as it is.
        start: Number of Gaussians before the first event, at least 1.
    """
    end, x = options.count_at_end(start), min((event + 1) / options.events, 1.0)
    return round(start * (end / start) ** x)


def bytes_per_gaussian(gaussians: Gaussians, views_per_step: int) -> int:
    """Memory that a Gaussian takes in a training step, bytes, as an upper estimate for all rules."""
    row = sum(tensor[:1].numel() * tensor.element_size() for _, tensor in gaussians[:1].items())
    return ROWS_IN_MEMORY * row + views_per_step * BYTES_PER_VIEW


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device: that of the GPU, or of the machine and the container that runs this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = (available_memory(), memory_left_in_container())
    return min((free for free in known if free is not None), default=2**32)


def within_memory(
    options: GrowthOptions, start: int, gaussian_bytes: int, free: int
) -> tuple[GrowthOptions, str | None]:
    """Options that end where half of the free memory is used up.

    Args:
        start: Number of Gaussians before the first event, whose memory is not free any more.
        gaussian_bytes: As :func:`bytes_per_gaussian` says.
        free: As :func:`free_bytes` says.

    Returns:
        The options, and a sentence for the user if they had to be limited.
    """
    end, most = options.count_at_end(start), start + int(MEMORY_SHARE * free) // gaussian_bytes
    if end <= most:
        return options, None
    sentence = (
        f"Growth ends at {most:,} Gaussians instead of {end:,}: at {gaussian_bytes / 1024:.1f} KiB each, more would "
        f"take over half of the {free / 2**30:.1f} GiB of memory that are free."
    )
    return replace(options, final_count=most), sentence
