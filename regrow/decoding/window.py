"""How many tokens are drafted before a check: a window that pays, from measured costs and from agreement.

With a chance a that a draft is kept, a check of w drafts gives 1 + a + ... + a^w tokens on average, in the
time w c + v(w): c is the time of a drafted token, v(w) that of a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median_high
from types import MappingProxyType
from typing import Any, Final, Protocol, Self, final

from regrow.errors import UsageError

WINDOWS: Final = (1, 2, 4, 8, 16)
WINS: Final = 1.03  # factor by which drafts have to be faster than dense steps
MEASURED: Final = 3  # passes of each window before it counts as measured: the first one also prepares
FIRST: Final = (0, 1)  # windows that are measured first; 0 stands for a dense step
PROBE_SHARE: Final = 0.02  # share of the time that looking again may cost while drafts do not pay
FADING: Final = 0.95  # what earlier drafts count for after every check
ASSUMED: Final = 4.0  # drafts that the agreement known before a batch counts for


@final
@dataclass(frozen=True)
class Costs:
    """The seconds of passes of one batch size and draft.

    Attributes:
        dense: Seconds of a dense step.
        draft: Seconds of a drafted token.
        check: Seconds of a check, by the number of drafted tokens a row. Windows that are left out are not
            used.
        agreement: The chance that a draft is kept, as far as it is known before a batch.

    Raises:
        UsageError: If a value is not a positive number of seconds (`draft` may be 0), a window is unknown, or
            the agreement does not lie in [0, 1].
    """

    dense: float
    draft: float
    check: Mapping[int, float]
    agreement: float = 0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "check", MappingProxyType(dict(self.check)))
        seconds = (self.dense, *self.check.values())
        if not all(0 < one < inf for one in seconds) or not 0 <= self.draft < inf:
            raise UsageError("costs are positive numbers of seconds")
        if not 0 <= self.agreement <= 1:
            raise UsageError(f"costs have an agreement from 0 to 1, not {self.agreement}")
        if unknown := sorted(set(self.check) - set(WINDOWS)):
            raise UsageError(f"costs have windows of {', '.join(map(str, WINDOWS))} tokens, not {unknown[0]}")

    def gain(self, window: int, agreement: float) -> float:
        """Returns how many times as fast as dense steps a window is, if drafts are kept with this chance."""
        tokens = sum(agreement**number for number in range(window + 1))
        return self.dense * tokens / (window * self.draft + self.check[window])

    def best(self, agreement: float) -> int:
        """Returns the fastest window, or 0 if none is faster than dense steps by 3 %."""
        window = max(self.check, key=lambda window: self.gain(window, agreement), default=0)
        return window if window and self.gain(window, agreement) >= WINS else 0

    def __hash__(self) -> int:
        return hash((self.dense, self.draft, tuple(self.check.items()), self.agreement))

    def __reduce__(self) -> tuple[Any, ...]:
        return Costs.from_dict, (self.to_dict(),)

    def grown(self) -> Costs:
        """Returns costs with all windows, if checks grow half as fast as from the last but one to the last.

        If there is a single one, they do not grow. That is hopeful, so that a disturbed measurement does not
        rule out what would win.
        """
        (before, less), (last, seconds) = [(0, inf), *self.check.items()][-2:]
        slope = max(0.0, (seconds - less) / (last - before)) / 2
        larger = {window: seconds + slope * (window - last) for window in WINDOWS if window > last}
        return replace(self, check={**self.check, **larger})

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which `from_dict` reads."""
        check = {str(window): seconds for window, seconds in self.check.items()}
        return {
            "dense": self.dense, "draft": self.draft, "check": check, "agreement": self.agreement,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` returned. Raises UsageError for anything else."""
        try:
            check = {int(window): float(seconds) for window, seconds in values["check"].items()}
            dense, draft, agreement = (float(values[name]) for name in ("dense", "draft", "agreement"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError("these are no costs; take those of report.draft_costs") from error
        return cls(dense, draft, check, agreement)


class Window(Protocol):
    """Decides how many tokens are drafted before the next check."""

    @property
    def measures(self) -> bool:
        """True while `took` is to be called."""
        ...

    @property
    def costs(self) -> Costs | None:
        """The costs that the window is chosen by, if there are any."""
        ...

    @property
    def explores(self) -> bool:
        """True if the window that `next` has returned is a dense step, and drafts follow it."""
        ...

    def next(self) -> int:
        """Returns the tokens to draft; 0 for a dense step."""
        ...

    def took(self, window: int, drafting: float, checking: float) -> None:
        """Takes the seconds of the latest drafts and of their check."""
        ...

    def saw(self, kept: int, rejected: int) -> None:
        """Takes how many drafts were kept since the last call, and how many were the first wrong ones."""
        ...


@final
@dataclass
class FixedWindow:
    """Always the same window."""

    window: int
    measures: bool = False
    costs: None = None
    explores: bool = False

    def next(self) -> int:
        return self.window

    def took(self, window: int, drafting: float, checking: float) -> None:
        """Does nothing."""

    def saw(self, kept: int, rejected: int) -> None:
        """Does nothing."""


@final
@dataclass
class Measurement:
    """Measures the costs with the first passes of a batch, which all give tokens.

    Windows take turns, so that a disturbance of the machine does not fall on one of them alone, and the
    fastest pass of each counts. Dense steps and the smallest windows come first. Larger windows are left out
    while they would not be the best with the agreement that was seen (`Costs.grown`).

    Attributes:
        found: The costs, once they are measured.
        measuring: True while passes are to be measured.
        agreement: Estimated chance that a draft is kept, for a batch that begins now.
        kept: Drafts that were kept while measuring.
        rejected: Drafts that were the first wrong ones of a check while measuring.
    """

    found: Costs | None = None
    measuring: bool = True
    agreement: float = Costs.agreement
    kept: int = 0
    rejected: int = 0
    _seconds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    _last: int = 0  # the window of the latest pass

    @classmethod
    def of(cls, costs: Costs) -> Self:
        """Returns what has nothing left to measure."""
        return cls(costs, measuring=False, agreement=costs.agreement)

    @property
    def next(self) -> int:
        """The window to measure."""
        passes = {window: len(self._seconds.get(window, [])) for window in (0, *WINDOWS)}
        if any(passes[window] < MEASURED for window in FIRST):
            return min(FIRST, key=lambda window: passes[window])
        window = next(window for window in WINDOWS if passes[window] < MEASURED)
        return 0 if self._last == window else window

    def took(self, window: int, drafting: float, checking: float) -> None:
        """Takes the seconds of one pass. Sets `found`, and ends the measurement, with the last one."""
        self._seconds.setdefault(window, []).append((drafting, checking))
        self._last = window
        if any(len(self._seconds.get(width, [])) < MEASURED for width in {*FIRST, *self._seconds}):
            return
        costs = self._costs()
        hoped = (self.kept + ASSUMED) / (self.kept + self.rejected + ASSUMED)
        if not self._lacks(costs, hoped):
            self.found, self.measuring = costs, False

    def resume(self, agreement: float) -> None:
        """Goes on measuring if a window that was left out would be the best one with this agreement.

        Costs that were given, and not measured here, stay as they are.
        """
        if self.found is not None and self._seconds and self._lacks(self.found, agreement):
            self.measuring = True

    def _lacks(self, costs: Costs, agreement: float) -> bool:
        """Returns True if a window that is not measured yet would be the best one."""
        return WINDOWS[-1] not in costs.check and costs.grown().best(agreement) not in {0, *costs.check}

    def _costs(self) -> Costs:
        prepared = {window: seconds[1:] for window, seconds in self._seconds.items()}
        # A cascade drafts some windows at no cost, so the fastest pass of all windows would mislead.
        drafted = [
            min(drafting for drafting, _ in seconds) / window
            for window, seconds in prepared.items()
            if window
        ]
        check = {window: min(checking for _, checking in seconds) for window, seconds in prepared.items()}
        agreement = self.kept / (self.kept + self.rejected) if self.kept + self.rejected else Costs.agreement
        return Costs(check.pop(0), median_high(drafted), check, agreement)


@final
class AdaptiveWindow:
    """The window that pays best, by measured costs and the smoothed agreement of the batch.

    While no window pays, decoding is dense. A window is then tried again after so many dense steps that the
    trials take at most 2 % of the time.
    """

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        known = measurement.agreement
        self._known = known if measurement.found is not None else None  # the agreement before the batch
        self._kept, self._rejected = ASSUMED * known, ASSUMED * (1 - known)
        self._dense_steps = 0
        self.explores = False

    @property
    def measures(self) -> bool:
        return self._measurement.measuring

    @property
    def costs(self) -> Costs | None:
        found = self._measurement.found
        return found if found is None or self._known is None else replace(found, agreement=self._known)

    @property
    def agreement(self) -> float:
        """Estimated chance that a draft is kept."""
        return self._kept / (self._kept + self._rejected)

    def next(self) -> int:
        self.explores = False
        self._measurement.resume(self.agreement)
        costs = self._measurement.found
        if costs is None or self.measures:
            return self._measurement.next
        window = costs.best(self.agreement)
        if window:
            self._dense_steps = 0
            return window
        self._dense_steps += 1
        trial = costs.best(1.0) and min(costs.check)
        if not trial:
            return 0
        wait = (trial * costs.draft + costs.check[trial]) / (PROBE_SHARE * costs.dense)
        if self._dense_steps < wait:
            self.explores = self._dense_steps + 1 >= wait
            return 0
        self._dense_steps = 0
        return trial

    def took(self, window: int, drafting: float, checking: float) -> None:
        self._measurement.took(window, drafting, checking)

    def saw(self, kept: int, rejected: int) -> None:
        if self.measures:
            self._measurement.kept += kept
            self._measurement.rejected += rejected
        if kept or rejected:
            self._kept = FADING * self._kept + kept
            self._rejected = FADING * self._rejected + rejected
            self._measurement.agreement = self.agreement
