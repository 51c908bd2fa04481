"""The section `[retention]`: how long what is kept, and how much room must stay."""

from typing import Annotated

from pydantic import Field, model_validator

from node.protocol import NotNegative, Section

Days = Annotated[float, Field(ge=1, le=36_525)]


class RetentionSection(Section):
    """`[retention]`: nothing is removed unless a key says so, but for the history."""

    keep_objects_days: Days | None = None
    keep_results_days: Days | None = None
    keep_unfinished_days: Days | None = None
    keep_names_days: Days | None = None
    keep_cases_days: Annotated[float, Field(ge=30, le=36_525)] | None = None
    keep_history_days: Annotated[float, Field(ge=30, le=36_525)] | None = 400.0
    make_room_below_mib: NotNegative | None = None
    least_days: Days = 30.0

    @model_validator(mode="after")
    def _check(self) -> "RetentionSection":
        kept = [d for d in (self.keep_objects_days, self.keep_results_days) if d is not None]
        if self.make_room_below_mib is not None and any(d < self.least_days for d in kept):
            raise ValueError(
                "least_days is longer than keep_objects_days or keep_results_days: what is removed "
                "for room would be kept longer than what is removed by age"
            )
        problem = self._why_never_forgotten(kept)
        if problem:
            raise ValueError(problem)
        return self

    def _why_never_forgotten(self, kept: list[float]) -> str:
        """Return why a name or case would never go that is meant to, or an empty text."""
        names, cases = self.keep_names_days, self.keep_cases_days
        if names is not None and cases is not None and cases < names:
            return "keep_cases_days is shorter than keep_names_days: names go with the case"
        if (names is None and cases is None) or self.make_room_below_mib is not None:
            return ""
        if len(kept) < 2:
            return (
                "keep_names_days and keep_cases_days need keep_objects_days and keep_results_days: "
                "as long as these are there, the names stand in them"
            )
        return ""

    @property
    def removes(self) -> bool:
        """Whether objects or results are ever removed."""
        keys = (self.keep_objects_days, self.keep_results_days, self.keep_unfinished_days)
        return self.make_room_below_mib is not None or any(key is not None for key in keys)
