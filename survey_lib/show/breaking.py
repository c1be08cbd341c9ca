"""Break this verdict: what it rests on, and a control that judges it anew from the page's records.

The sentence is made here and needs no script. The control is drawn by ``survey.js`` from the
values of the replicates, which stand in the page, by the rule of
:func:`survey_lib.evidence.verdicts.judge`.
"""

import json
from collections.abc import Mapping

from scipy.stats import t as student

from survey_lib.evidence.standing import Standing, standing
from survey_lib.evidence.verdicts import MINIMUM_SEEDS, NOT_REPRODUCED, REPRODUCED, SIGNS, Verdict
from survey_lib.show.markup import (
    SIGNED,
    amount,
    decimals_for,
    escape,
    in_unit,
    unit_words,
)

LEVEL = 0.95
_YES, _NO = (f"{SIGNS[word]} {word}" for word in (REPRODUCED, NOT_REPRODUCED))
Values = Mapping[int, float]


def breaking(
    verdict: Verdict, replicates: str = "seeds", instead: Mapping[str, Values] | None = None
) -> str:
    """HTML of the row under a verdict; empty where one run decides or nothing was measured.

    Args:
        verdict: what is to be broken.
        replicates: what its replicates are, a plural in -s.
        instead: other ways to measure the same, in words, and the values of each by replicate.
    """
    stands = standing(verdict)
    if stands is None:
        return ""
    data = json.dumps(
        _data(verdict, replicates, instead or {}), ensure_ascii=False, separators=(",", ":")
    )
    # in single quotes, which spares the page six letters for each of the many double ones
    data = data.replace("&", "&amp;").replace("'", "&#39;").replace("<", "&lt;")
    return (
        '<tr role="row" class="survey-break"><td role="cell" colspan="4"><details>'
        f"<summary>break this verdict</summary><p>{_words(verdict, stands, replicates)}</p>"
        f"""<div class="survey-breaking" data-break='{data}' hidden></div></details></td></tr>"""
    )


def _words(verdict: Verdict, stands: Standing, replicates: str) -> str:
    """HTML that says what it takes to break a verdict."""
    runs, many = len(verdict.values), escape(replicates)
    if stands.since == 1:
        told = f"The word was the same at every number of {many}"
    elif stands.since < runs:
        told = f"The word is the same from the first {stands.since} {many} on"
    elif runs == MINIMUM_SEEDS and verdict.word == REPRODUCED:
        told = f"Fewer than {MINIMUM_SEEDS} {many} never give {_YES}"
    else:
        told = f"It took all {runs} {many} to come to this word"
    if stands.carried_by:
        *some, last = map(str, stands.carried_by)
        names = f"{', '.join(some)} or {last}" if some else last
        told += f"; without {many.removesuffix('s')} {names} the interval would give another"
    else:
        told += "; whichever one of them is left out, the interval gives the same"
    return f"{told}.{_edge_words(verdict)}"


def _edge_words(verdict: Verdict) -> str:
    """HTML that says with which edges of the region the verdict would be which word."""
    interval, unit = verdict.interval, verdict.claim.unit
    assert interval is not None
    (low, high), places = verdict.claim.region, decimals_for(in_unit(interval, unit))

    def told(value: float) -> str:
        return f"{amount(value, unit, places)} {escape(unit_words(unit))}".strip()

    if low is not None and high is not None:
        centre = (low + high) / 2
        ends = sorted(abs(end - centre) for end in (interval.low, interval.high))
        words = f" With a margin of {told(ends[1]).lstrip('+')} or more it is {_YES}"
        inside = interval.low <= centre <= interval.high
        return words + ("." if inside else f", with less than {told(ends[0]).lstrip('+')} {_NO}.")
    if high is None:
        return f" With an edge of up to {told(interval.low)} it is {_YES}, beyond " + (
            f"{told(interval.high)} {_NO}."
        )
    return f" With an edge of {told(interval.high)} or more it is {_YES}, below " + (
        f"{told(interval.low)} {_NO}."
    )


def _data(verdict: Verdict, replicates: str, instead: Mapping[str, Values]) -> dict:
    """What the script needs, in the unit that a reader sees."""
    assert verdict.interval is not None
    unit = verdict.claim.unit
    times = 100.0 if unit.startswith("share of ") else 1.0

    def scaled(values: Values) -> list[list[float]]:
        return [[seed, _brief(times * value)] for seed, value in sorted(values.items())]

    most = max(len(values) for values in (verdict.values, *instead.values()))
    return {
        "values": {"": scaled(verdict.values)} | {w: scaled(v) for w, v in instead.items()},
        "region": [None if end is None else times * end for end in verdict.claim.region],
        "least": MINIMUM_SEEDS,
        # quantile for n replicates at position n
        "t": [
            0,
            0,
            *(_brief(float(student.ppf((1 + LEVEL) / 2, n - 1))) for n in range(2, most + 1)),
        ],
        "places": decimals_for(in_unit(verdict.interval, unit)),
        "unit": unit_words(unit),
        "signed": unit in SIGNED,
        "signs": SIGNS,
        "replicates": replicates,
    }


def _brief(value: float) -> float:
    """A number to seven digits: more than any page shows."""
    return float(f"{value:.7g}")
