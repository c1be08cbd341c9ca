"""Tables a reader can sort, read on a phone, and hear read aloud."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from survey_lib import files
from survey_lib.cards.card import Card, CardError, Reported
from survey_lib.show import page
from survey_lib.show.markup import LIVE_STYLE, Html, anchor, escape, lead, number

DAGGER = "†"


def table(
    df: pd.DataFrame,
    *,
    caption: str,
    units: Mapping[Any, str] | None = None,
    decimals: int | Mapping[Any, int] | None = None,
    interval_columns: Mapping[Any, tuple[Any, Any]] | None = None,
    name: str | None = None,
    notes: Sequence[str] = (),
    marks: Mapping[Any, str] | None = None,
) -> Html:
    """A data frame as a table for readers.

    Numbers stand to the right with the same decimals down a column, units in the head, intervals
    smaller and grey under their number. On the site a click on a head sorts.

    Args:
        df: one row per line; an index with a name becomes the first column. Two-level columns
            give a head of two lines.
        caption: what the table shows; its first sentence is set off.
        units: column → unit.
        decimals: for all columns, or per column; by default chosen from the values.
        interval_columns: column → its (low, high) columns, which are then not shown themselves.
        name: also keep the data as ``<name>.csv`` and link to it.
        notes: sentences under the table.
        marks: column → sign put behind each of its numbers, to be explained in ``notes``.

    Raises:
        ValueError: the caption is empty, or a column named in an argument is not there.
    """
    if not caption.strip():
        raise ValueError("a table needs a caption that says what to see")
    if any(n is not None for n in df.index.names):
        df = df.reset_index()
    units, intervals, marks = dict(units or {}), dict(interval_columns or {}), dict(marks or {})
    chosen = dict(decimals) if isinstance(decimals, Mapping) else {}
    bounds = [end for pair in intervals.values() for end in pair]
    for column in [*units, *chosen, *intervals, *bounds, *marks]:
        if column not in df.columns:
            raise ValueError(
                f"table: no column {column!r}; there are: {', '.join(map(str, df.columns))}"
            )
    columns = [c for c in df.columns if c not in bounds]
    values = {c: list(df.iloc[:, i]) for i, c in enumerate(df.columns)}
    numeric = {c: _is_numeric(values[c]) for c in columns}
    places = {c: chosen.get(c, decimals if isinstance(decimals, int) else None) for c in columns}
    for column in columns:
        if numeric[column] and places[column] is None:
            places[column] = _decimals(values[column])
    body = []
    for line in df.itertuples(index=False, name=None):
        row = dict(zip(df.columns, line, strict=True))
        cells = [
            _cell(row, c, numeric[c], places[c], intervals.get(c), marks.get(c, ""))
            for c in columns
        ]
        # the first column names the row unless it holds measurements
        if columns and (not numeric[columns[0]] or columns[0] not in intervals):
            cells[0] = cells[0].replace("<td", '<th scope="row"', 1)[: -len("</td>")] + "</th>"
        body.append(f"<tr>{''.join(cells)}</tr>")
    save = ""
    if name is not None:
        address = _keep(df, name)
        save = (
            '<p class="survey-links survey-site-only" hidden>'
            f'<a href="{address}" download>CSV</a></p>'
        )
    under = "".join(f'<p class="survey-note">{escape(note)}</p>' for note in notes)
    label = escape(caption).split(". ")[0]
    markup = LIVE_STYLE + (
        f'<div class="survey survey-tablebox"><div class="survey-scroll" role="group" '
        f'aria-label="{label}"><table class="survey-table">'
        f"<caption><span>{lead(caption)}</span></caption>"
        f"<thead>{_head(columns, numeric, units)}</thead><tbody>{''.join(body)}</tbody></table>"
        f"</div>{under}{save}</div>"
    )
    plain = df.rename(columns={c: _flat(c) for c in df.columns}) if df.columns.nlevels == 1 else df
    return Html(markup, f"{caption}\n{plain.to_string(index=False)}")


def tall(one: Html) -> Html:
    """A long table in a box of its own, which scrolls under its head; on paper it stands whole."""
    return Html(f'<div class="survey survey-tall">{one.html}</div>', one.text)


def folded(summary: str, one: Html) -> Html:
    """A table behind a line that opens it: what few readers look up."""
    return Html(
        f'<details class="survey survey-timings"><summary>{escape(summary)}</summary>'
        f"{one.html}</details>",
        one.text,
    )


def _flat(column: Any) -> str:
    return " ".join(str(part) for part in column) if isinstance(column, tuple) else str(column)


def _is_numeric(values: Sequence[Any]) -> bool:
    filled = [v for v in values if not _empty(v)]
    return bool(filled) and all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in filled
    )


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _decimals(column: Sequence[Any]) -> int:
    """Decimals that no value needs more of, but at most four significant digits of the largest."""
    values = [float(v) for v in column if not _empty(v) and math.isfinite(float(v))]
    if not values or all(v.is_integer() for v in values):
        return 0
    largest = max(abs(v) for v in values)
    most = max(0, 3 - math.floor(math.log10(largest))) if largest else 3
    needed = next((d for d in range(7) if all(math.isclose(round(v, d), v) for v in values)), 6)
    return min(most, needed, 6)


def _cell(
    row: Mapping[Any, Any],
    column: Any,
    numeric: bool,
    places: int | None,
    bounds: tuple[Any, Any] | None,
    mark: str,
) -> str:
    value = row[column]
    if _empty(value):
        return f'<td{" class=num" if numeric else ""}><span class="survey-none">–</span></td>'
    if not numeric:
        return f"<td>{escape(value)}{escape(mark)}</td>"
    interval = ""
    if bounds is not None and not (_empty(row[bounds[0]]) or _empty(row[bounds[1]])):
        low, high = (number(float(row[end]), places) for end in bounds)
        interval = f'<span class="interval">[{low}, {high}]</span>'
    sign = f'<span class="dagger">{escape(mark)}</span>' if mark else ""
    words = number(float(value), places)
    exact = float(f"{float(value):.8g}")  # what sums leave behind the eighth digit sorts nothing
    told = "" if _says(words + sign + interval, exact) else f' data-value="{exact!r}"'
    return f'<td class="num"{told}>{words}{sign}{interval}</td>'


def _says(words: str, value: float) -> bool:
    """Whether the page's script reads this very value from the words."""
    return bool(re.fullmatch(r"\d+(\.\d+)?", words)) and float(words) == value


def _head(columns: Sequence[Any], numeric: Mapping[Any, bool], units: Mapping[Any, str]) -> str:
    def leaf(column: Any, words: Any, rows: int = 1) -> str:
        unit = f' <span class="unit">({escape(units[column])})</span>' if column in units else ""
        kind = ' class="num"' if numeric[column] else ""
        span = f' rowspan="{rows}"' if rows > 1 else ""
        return f'<th scope="col"{kind}{span}>{escape(words)}{unit}</th>'

    if not any(isinstance(c, tuple) for c in columns):
        return f"<tr>{''.join(leaf(c, c) for c in columns)}</tr>"
    top, bottom, i = "", "", 0
    while i < len(columns):
        group = columns[i][0]
        if not columns[i][-1]:  # a column without a second level reaches over both lines
            top += leaf(columns[i], group, rows=2)
            i += 1
            continue
        width = 0
        while i < len(columns) and columns[i][0] == group and columns[i][-1]:
            bottom += leaf(columns[i], columns[i][-1])
            i, width = i + 1, width + 1
        top += f'<th scope="colgroup" class="group" colspan="{width}">{escape(group)}</th>'
    return f"<tr>{top}</tr><tr>{bottom}</tr>"


def _keep(df: pd.DataFrame, name: str) -> str:
    slug = page.current_slug()
    if anchor(name) != name:
        raise ValueError(f"table name must be letters, digits, - and _, not {name!r}")
    flat = df.set_axis([_flat(c).strip() for c in df.columns], axis=1)
    text = flat.to_csv(index=False, lineterminator="\n")
    files.write_atomic(files.build_dir() / "figures" / slug / f"{name}.csv", text)
    return f"../_static/figures/{slug}/{name}.csv"


def records_link(slug: str | None = None, profile: str = "study") -> str:
    """HTML of the link to the recorded runs behind a page; shown on the site only."""
    slug = slug or page.current_slug()
    return (
        '<p class="survey-links survey-site-only" hidden>'
        f'<a href="../_static/records/{profile}/{slug}.jsonl" download>'
        "Download the records of this page</a> (JSON lines, one run each)</p>"
    )


def download_records(slug: str | None = None, profile: str = "study") -> Html:
    """The link to the recorded runs behind a page, for a cell of its own."""
    slug = slug or page.current_slug()
    return Html(
        f'<div class="survey">{records_link(slug, profile)}</div>',
        f"results/{profile}/{slug}.jsonl",
    )


def compare_reported(
    card: Card,
    reported_id: str,
    ours: pd.DataFrame,
    *,
    on: str | Sequence[str],
    columns: Sequence[str],
    units: Mapping[str, str] | None = None,
    decimals: int | Mapping[str, int] | None = None,
    interval_columns: Mapping[str, tuple[str, str]] | None = None,
    caption: str = "",
    name: str | None = None,
) -> Html:
    """The paper's numbers beside ours, joined row by row.

    Args:
        card: the paper's card.
        reported_id: which of its tables.
        ours: our numbers; has the columns ``on`` and ``columns``.
        on: columns both tables share (``sparsity``); a row that only one side has is kept.
        columns: columns of ``ours`` to show.
        units: column of ``ours`` → unit.
        decimals: as in :func:`table`, for columns of ``ours``.
        interval_columns: column of ``ours`` → its (low, high) columns.
        caption: by default the card's caption of the table.
        name: also keep the joined data as ``<name>.csv``.

    Raises:
        CardError: the card has no such table.
        ValueError: a column is missing on one side, or a key stands twice in ours.
    """
    reported = _reported(card, reported_id)
    keys = [on] if isinstance(on, str) else list(on)
    bounds = dict(interval_columns or {})
    wanted = [*keys, *columns, *(end for pair in bounds.values() for end in pair)]
    for side, there, needed in (
        ("the card's table", list(reported.columns), keys),
        ("ours", list(ours.columns), wanted),
    ):
        missing = [c for c in needed if c not in there]
        if missing:
            raise ValueError(
                f"{card.slug}: {side} {reported_id!r} lacks {', '.join(map(repr, missing))}; "
                f"it has: {', '.join(map(str, there))}"
            )
    if ours.duplicated(keys).any():
        raise ValueError(f"{card.slug}: two rows of ours have the same {', '.join(keys)}")
    rest = [c for c in reported.columns if c not in keys]
    shown = [c for c in wanted if c not in keys]
    mine = {
        tuple(line[: len(keys)]): line[len(keys) :]
        for line in ours.loc[:, wanted].itertuples(index=False, name=None)
    }
    # the paper's rows in its order, each with ours beside it, then those that only we have
    lines = []
    for row in reported.rows:
        theirs = dict(zip(reported.columns, row, strict=True))
        key = tuple(theirs[c] for c in keys)
        found = mine.get(key, [None] * len(shown))
        lines.append([*key, *(theirs[c] for c in rest), *found])
    known = {tuple(line[: len(keys)]) for line in lines}
    lines += [[*k, *[None] * len(rest), *found] for k, found in mine.items() if k not in known]
    here = "here"
    heads = [(c, "") for c in keys] + [("the paper", c) for c in rest] + [(here, c) for c in shown]
    joined = pd.DataFrame(lines, columns=pd.MultiIndex.from_tuples(heads))
    unsure = list(rest) if "all" in reported.unverified else [*reported.unverified]
    notes = []
    if any(c in rest for c in unsure):
        notes.append(f"{DAGGER} not checked against the paper itself.")
    notes += [f"Source: {reported.source}.", f"Scale: {card.scale}"]
    chosen: int | dict[Any, int] | None
    if isinstance(decimals, Mapping):
        chosen = {(here, c): d for c, d in decimals.items()}
    else:
        chosen = decimals
    return table(
        joined,
        caption=caption or reported.caption,
        units={(here, c): u for c, u in (units or {}).items()},
        decimals=chosen,
        interval_columns={
            (here, c): ((here, low), (here, high)) for c, (low, high) in bounds.items()
        },
        name=name,
        notes=notes,
        marks={("the paper", c): DAGGER for c in unsure if c in rest},
    )


def reported_frame(card: Card, reported_id: str) -> pd.DataFrame:
    """One of the paper's tables, as the card holds it.

    Raises:
        CardError: the card has no such table.
    """
    found = _reported(card, reported_id)
    return pd.DataFrame([dict(zip(found.columns, row, strict=True)) for row in found.rows])


def _reported(card: Card, reported_id: str) -> Reported:
    by_id = {r.id: r for r in card.reported}
    if reported_id not in by_id:
        raise CardError(
            f"{card.slug}: no reported table {reported_id!r}; there are: {', '.join(by_id)}"
        )
    return by_id[reported_id]
