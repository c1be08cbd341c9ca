"""Records as data frames, and their means with intervals over seeds."""

from collections.abc import Sequence

import pandas as pd

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.records import Record


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per finished record: its configuration, then its plain numbers.

    Numbers that are lists or tables (curves, layers) are left out; a number named like a
    configuration field is prefixed with ``number_``.
    """
    rows = []
    for record in records:
        if record.status != "done":
            continue
        row = dict(record.config)
        for name, value in record.numbers.items():
            if isinstance(value, (int, float, str)):
                row[f"number_{name}" if name in record.config else name] = value
        rows.append(row)
    return pd.DataFrame(rows)


def over_seeds(df: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of ``value`` over seeds with its 95 % t interval, one row for each ``by``.

    Returns:
        Columns ``by``, then ``mean``, ``low``, ``high`` (missing where there is one seed) and
        ``seeds``; a group whose ``by`` is missing (NaN) counts as one of its own.
    """
    rows = []
    for key, group in df.groupby([*by], dropna=False, sort=True):
        interval = t_interval(group[value].tolist())
        known = interval.n > 1
        names = key if isinstance(key, tuple) else (key,)
        row: dict[str, object] = dict(zip(by, names, strict=True))
        row |= {
            "mean": interval.mean,
            "low": interval.low if known else float("nan"),
            "high": interval.high if known else float("nan"),
            "seeds": interval.n,
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


def against_dense(df: pd.DataFrame, value: str = "accuracy", dense: str = "dense") -> pd.DataFrame:
    """Runs with their change against the dense net of their own seed.

    Args:
        df: columns ``arm``, ``seed`` and ``value``; one dense run a seed.
        value: a share of images.
        dense: the arm that is compared with.

    Returns:
        The runs that have the value, with a column ``change`` in points (hundredths of
        ``value``); seeds without a dense net are left out.

    Raises:
        ValueError: a seed has two dense runs, so that it is not known which one is meant.
    """
    some = df.dropna(subset=[value])
    base = some.loc[some.arm == dense].set_index("seed")[value]
    if base.index.has_duplicates:
        twice = sorted(set(base.index[base.index.duplicated()]))
        raise ValueError(f"against_dense: seeds {twice} have two runs of {dense!r}; choose one")
    some = some.loc[some.seed.isin(base.index)]
    return some.assign(change=100 * (some[value] - some.seed.map(base)))


def mean_over(values: Sequence[float] | pd.Series) -> pd.Series:
    """``mean``, ``low``, ``high`` and ``seeds`` of one value a seed."""
    df = pd.DataFrame({"value": list(values), "all": 0})
    return over_seeds(df, ["all"], "value").iloc[0]
