"""Explorers: move a parameter, see the result; recorded on the page, live in a kernel."""

import inspect
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.show import style
from survey_lib.show.markup import LIVE_STYLE, Html, anchor, escape, lead, number
from survey_lib.show.tables import table

KINDS = ("slider", "select")


@dataclass(frozen=True)
class Control:
    """One parameter a reader may move over the values that were recorded."""

    field: str
    """Column of the grid, and argument of the live function."""
    label: str
    values: tuple[Any, ...]
    """In the order of the slider."""
    default: Any
    kind: str = "slider"
    format: Callable[[Any], str] | None = None
    """Turns a value into words; by default numbers, with three significant digits."""
    idle: str = ""
    """Why this control changes nothing at some settings of the others; needed where it does."""

    def words(self, value: Any) -> str:
        """``value`` as a reader sees it."""
        if self.format is not None:
            return self.format(value)
        if isinstance(value, float):
            return number(float(f"{value:.3g}"))
        if isinstance(value, int) and not isinstance(value, bool):
            return number(value)
        return str(value)


def told(field: str, *, percent: bool = False) -> alt.Text:
    """Text of a chart: a number of ``field`` with three significant digits."""
    return alt.Text(f"{field}:Q", format=".3~p" if percent else ".3~r")


def by_method(field: str, keys: Mapping[str, str]) -> alt.Color:
    """Colour of each method as in the whole book, whatever the controls leave over.

    Args:
        field: column that names the method.
        keys: value of ``field`` → method, see :data:`survey_lib.show.style.SERIES`.
    """
    colours = alt.Scale(domain=list(keys), range=[style.css(key) for key in keys.values()])
    return alt.Color(f"{field}:N", scale=colours, legend=None)


class Explorer:
    """A chart with controls, for a page without a kernel and for a kernel alike.

    On the page it draws the recorded ``grid`` with Vega-Lite; the controls step over the
    recorded values. In a live kernel the controls call ``live`` and show what it returns.
    """

    def __init__(
        self,
        name: str,
        *,
        controls: Sequence[Control],
        grid: pd.DataFrame,
        chart: Callable[[pd.DataFrame, dict[str, alt.Parameter]], Any],
        live: Callable[..., Any],
        title: str,
        alt: str,
        caption: str,
        table_columns: Sequence[str] | Mapping[str, str] | None = None,
        numbers: Callable[[pd.DataFrame], Html] | None = None,
        slow: bool = False,
    ) -> None:
        """Check and keep what the explorer needs; nothing is run.

        Args:
            name: letters, digits, ``-`` and ``_``; unique in the page.
            controls: at least one.
            grid: real records, one row each, with a column for each control.
            chart: given the grid and one Altair parameter per control, returns the chart, which
                filters by them (``alt.datum.keep == params["keep"]``).
            live: called with one value per control; returns anything a notebook can show. If it
                takes ``progress``, it is given a function ``progress(done, total, words)``.
            title: a question or an invitation.
            alt: what the chart shows, in words.
            caption: what to try, and what is drawn.
            table_columns: columns of the fallback table, or column → head; all by default.
            numbers: given the grid, returns the page's fallback table, where a row for each
                recorded row would be too many to read.
            slow: True where ``live`` takes over two seconds: it then waits for a Run button.

        Raises:
            ValueError: a text is empty, the grid is empty or lacks a column or a value that a
                control offers.
        """
        if anchor(name) != name or not name:
            raise ValueError(f"explorer name must be letters, digits, - and _, not {name!r}")
        for what, text in (("title", title), ("alt", alt), ("caption", caption)):
            if not text.strip():
                raise ValueError(f"explorer {name!r}: {what} is empty")
        if not controls or grid.empty:
            raise ValueError(f"explorer {name!r} needs at least one control and one recorded row")
        heads = (
            dict(table_columns)
            if isinstance(table_columns, Mapping)
            else {c: c for c in (table_columns or grid.columns)}
        )
        for column in [*(c.field for c in controls), *heads]:
            if column not in grid.columns:
                raise ValueError(
                    f"explorer {name!r}: the grid has no column {column!r}; "
                    f"it has: {', '.join(map(str, grid.columns))}"
                )
        for control in controls:
            recorded = set(grid[control.field])
            absent = [v for v in control.values if v not in recorded]
            if absent:
                raise ValueError(
                    f"explorer {name!r}: no recorded row has {control.field} in {absent}"
                )
            if control.default not in control.values:
                raise ValueError(
                    f"explorer {name!r}: default {control.default!r} of {control.field} "
                    "is not among its values"
                )
            if control.kind not in KINDS:
                raise ValueError(
                    f"explorer {name!r}: kind of {control.field} must be slider or select"
                )
        self.name, self.controls, self.grid = name, tuple(controls), grid
        self.chart, self.live, self.slow, self.numbers = chart, live, slow, numbers
        self.title, self.alt, self.caption, self.heads = title, alt, caption, heads
        self._widget: Any = None
        self._idle = self._idle_settings()
        for control in controls:
            if self._idle[control.field] and not control.idle:
                raise ValueError(
                    f"explorer {name!r}: {control.field} changes nothing at some settings; "
                    "say why in its control's idle"
                )

    def idle(self, field: str, values: Mapping[str, Any]) -> bool:
        """Whether moving ``field`` changes nothing while the others stand at ``values``."""
        others = tuple(values[c.field] for c in self.controls if c.field != field)
        return others in self._idle[field]

    def _idle_settings(self) -> dict[str, set[tuple[Any, ...]]]:
        """For each control the settings of the others at which all its values show one thing."""
        fields = [c.field for c in self.controls]
        rest = self.grid.drop(columns=fields)
        shown: dict[tuple[Any, ...], list[str]] = {}
        for key, row in zip(
            self.grid[fields].itertuples(index=False, name=None),
            rest.itertuples(index=False, name=None),
            strict=True,
        ):
            shown.setdefault(key, []).append(repr(row))  # lists, and numbers that are missing, too
        found: dict[str, set[tuple[Any, ...]]] = {}
        for at, control in enumerate(self.controls):
            others = [c.values for c in self.controls if c is not control]
            found[control.field] = {
                key
                for key in itertools.product(*others)
                if len(control.values) > 1
                and len({tuple(shown.get((*key[:at], v, *key[at:]), ())) for v in control.values})
                == 1
            }
        return found

    # The page

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, with the grid inlined and a parameter per control.

        Colours are CSS values; the page's script puts the theme's in their place.
        """
        params = {
            c.field: alt.param(name=_parameter(c), value=_plain(c.default)) for c in self.controls
        }
        with alt.data_transformers.enable("default", max_rows=None, consolidate_datasets=True):
            spec = self.chart(self.grid, params).to_dict()
        # the reader's copy of Vega-Lite may be another minor version, which would only warn
        spec.pop("$schema", None)
        spec.pop("config", None)
        spec["config"] = style.vega_config()
        spec["description"] = self.alt
        for label in _labels(spec):
            if not re.fullmatch(r"\.[0-3]~?[gprs]|d", label.get("format", "")):
                raise ValueError(
                    f"explorer {self.name!r}: the text of {label['field']!r} may have more than "
                    "three digits; write it with survey_lib.show.explorer.told"
                )
        known = {p["name"] for p in spec.get("params", [])}
        spec["params"] = [
            *({"name": p.name, "value": _plain(c.default)}
              for c, p in zip(self.controls, params.values(), strict=True)
              if p.name not in known),
            *spec.get("params", []),
        ]  # fmt: skip
        # room for labels is measured anew at each change: a longer one would be cut
        spec["autosize"] = {"type": "pad", "resize": True}
        if not {"hconcat", "vconcat", "concat", "facet", "repeat"} & spec.keys():
            encoding = spec.get("encoding", {})
            if not {"row", "column", "facet"} & encoding.keys():
                spec["width"] = "container"
                spec.setdefault("height", 280)
                spec["autosize"] = {"type": "fit-x", "contains": "padding", "resize": True}
        return spec

    def _idle_keys(self, control: Control) -> list[str]:
        """Places of the other controls' values, ``1,0``, at which ``control`` changes nothing."""
        others = [c for c in self.controls if c is not control]
        return sorted(
            ",".join(str(c.values.index(v)) for c, v in zip(others, key, strict=True))
            for key in self._idle[control.field]
        )

    def inlined(self) -> pd.DataFrame:
        """The rows the page's chart holds, read back from its specification."""
        rows = [row for data in self.spec()["datasets"].values() for row in data]
        return pd.DataFrame(rows)

    def html(self) -> str:
        """The explorer as the page holds it: controls, chart, the numbers as a table."""
        name = f"explorer-{self.name}"
        controls = "".join(_control_html(name, c, self._idle_keys(c)) for c in self.controls)
        whole = self.spec()
        whole["datasets"] = {n: _packed(found) for n, found in whole["datasets"].items()}
        spec = json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        spec = spec.replace("<", "\\u003c")  # no text in it ends the script or opens a comment
        shown = self._shown(self.grid)
        rows = (
            self.numbers(self.grid)
            if self.numbers
            else table(shown, caption=f"All recorded runs: {self.title}")
        ).html
        return LIVE_STYLE + (
            f'<div class="survey survey-explorer" id="{name}" role="group" '
            f'aria-labelledby="{name}-title">'
            f'<p class="survey-explorer-title" id="{name}-title">{escape(self.title)}</p>'
            f'<div class="survey-controls" hidden>{controls}</div>'
            f'<div class="survey-chart" role="img" aria-label="{escape(self.alt)}"></div>'
            f'<p class="survey-status" role="status">The chart needs JavaScript. '
            "The table holds the same numbers.</p>"
            f'<p class="survey-explorer-caption">{lead(self.caption)}</p>'
            f'<details class="survey-fallback"><summary>The numbers: {len(shown)} recorded rows'
            f"</summary>{rows}</details>"
            f'<script type="application/json" class="survey-spec">{spec}</script></div>'
        )

    # The live kernel

    def widget(self) -> Any:
        """The ipywidgets control, made once; works with ipywidgets 7.7 and 8."""
        if self._widget is None:
            self._widget = self._build_widget()
        return self._widget

    def run(self, values: Mapping[str, Any], progress: Callable[..., None] | None = None) -> Any:
        """Call ``live`` with one value per control; hands on ``progress`` if it takes one."""
        more: dict[str, Any] = {}
        if "progress" in inspect.signature(self.live).parameters:
            more["progress"] = progress or (lambda *_: None)
        return self.live(**values, **more)

    def recorded(self, values: Mapping[str, Any]) -> Any:
        """The recorded rows at these settings, as a table."""
        chosen = np.ones(len(self.grid), dtype=bool)
        for field, value in values.items():
            chosen &= np.asarray(self.grid[field] == value)
        rows = self.grid.loc[chosen]
        settings = ", ".join(f"{c.label} {c.words(values[c.field])}" for c in self.controls)
        do = "Press Run" if self.slow else "Move a control"
        return table(
            self._shown(rows),
            caption=f"Recorded runs at {settings}. {do} to compute it here.",
        )

    def _shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The columns of the fallback table, under the heads a reader sees.

        A control that changes nothing at a row's settings has no value there.
        """
        told = rows.loc[:, list(self.heads)]
        for control in self.controls:
            if control.field in told and (idle := self._idle[control.field]):
                others = rows[[c.field for c in self.controls if c is not control]]
                at = [key in idle for key in others.itertuples(index=False, name=None)]
                told[control.field] = told[control.field].astype(object).mask(at, None)
        # one run may fill several rows of the grid: the points of its curve
        return told.drop_duplicates().set_axis(list(self.heads.values()), axis=1)

    def _build_widget(self) -> Any:
        import ipywidgets as widgets

        inputs: dict[str, Any] = {}
        for control in self.controls:
            kind = widgets.SelectionSlider if control.kind == "slider" else widgets.Dropdown
            options = [(control.words(v), v) for v in control.values]
            inputs[control.field] = kind(
                options=options,
                value=control.default,
                description=control.label,
                style={"description_width": "initial"},
                layout=widgets.Layout(width="min(30em, 95%)"),
                **({"continuous_update": False} if control.kind == "slider" else {}),
            )
        reasons = {c.field: widgets.HTML() for c in self.controls if self._idle[c.field]}
        output, status = widgets.Output(), widgets.HTML()
        bar = widgets.IntProgress(min=0, max=1, layout=widgets.Layout(display="none"))
        button = widgets.Button(description="Run", button_style="primary")

        def values() -> dict[str, Any]:
            return {field: box.value for field, box in inputs.items()}

        def show(thing: Any) -> None:
            # not `with output:`, which makes a headless client listen for the cell's messages
            # and, now and then, miss the last one
            output.outputs = ()
            output.append_display_data(thing)

        def progress(done: int, total: int, words: str = "") -> None:
            bar.max, bar.value = max(1, int(total)), int(done)
            status.value = escape(words or f"{done} of {total}")

        def compute(*_: Any) -> None:
            start = time.perf_counter()
            button.disabled = True
            bar.value = 0
            bar.layout.display = ""
            status.value = "Running …"
            try:
                show(self.run(values(), progress))
                status.value = f"Computed here in {time.perf_counter() - start:.1f} s."
            except Exception as error:  # a reader gets one sentence, the kernel lives on
                status.value = f"<b>That did not work:</b> {escape(error_words(error))}"
            finally:
                button.disabled = False
                bar.layout.display = "none"

        def look() -> None:
            for control in self.controls:
                off = self.idle(control.field, values())
                inputs[control.field].disabled = off
                if control.field in reasons:
                    reasons[control.field].value = f"<i>{escape(control.idle)}</i>" if off else ""

        def moved(*_: Any) -> None:
            look()
            if self.slow:
                status.value = "Press Run to compute these settings."
            else:
                compute()

        for box in inputs.values():
            box.observe(moved, names="value")
        button.on_click(compute)
        look()
        show(self.recorded(values()))
        rows = [w for field, box in inputs.items() for w in (box, reasons.get(field)) if w]
        row = [button] if self.slow else []
        head = widgets.HTML(f"<b>{escape(self.title)}</b>")
        return widgets.VBox([head, *rows, *row, bar, status, output])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {
            "text/html": self.html(),
            "text/plain": f"Explorer {self.name}: {self.title}",
        }
        if os.environ.get("SURVEY_STATIC"):  # a page is being made: no kernel will answer
            return bundle
        model = getattr(self.widget(), "model_id", None)  # None outside a kernel on ipywidgets 7
        if model:
            bundle["application/vnd.jupyter.widget-view+json"] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": model,
            }
        return bundle


def error_words(error: Exception) -> str:
    """An exception as one sentence: its first line, with its kind where it has no words."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _parameter(control: Control) -> str:
    """Name of a control's Vega parameter; plain letters, so that expressions may name it."""
    return "c_" + anchor(control.field).replace("-", "_")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows without their names, which are said once; the page's script puts them back."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def _labels(part: Any) -> Iterator[dict[str, Any]]:
    """Text channels of a specification that write numbers."""
    if isinstance(part, dict):
        text = part.get("encoding", {}).get("text")
        if isinstance(text, dict) and text.get("type") == "quantitative":
            yield text
        for key, value in part.items():
            if key != "datasets":
                yield from _labels(value)
    elif isinstance(part, list):
        for value in part:
            yield from _labels(value)


def _control_html(prefix: str, control: Control, idle: Sequence[str]) -> str:
    ident = f"{prefix}-{anchor(control.field)}"
    at = list(control.values).index(control.default)
    data = escape(json.dumps([_plain(v) for v in control.values], allow_nan=False))
    words = [control.words(v) for v in control.values]
    shared = f'id="{ident}" data-param="{_parameter(control)}" data-values="{data}"'
    label = f'<label for="{ident}">{escape(control.label)}</label>'
    why = ""
    if idle:
        shared += f' data-idle="{escape(json.dumps(idle))}" aria-describedby="{ident}-idle"'
        why = f'<span class="survey-idle" id="{ident}-idle" hidden>{escape(control.idle)}</span>'
    if control.kind == "select":
        options = "".join(
            f'<option value="{i}"{" selected" if i == at else ""}>{escape(w)}</option>'
            for i, w in enumerate(words)
        )
        return f'<div class="survey-control">{label}<select {shared}>{options}</select>{why}</div>'
    told = escape(json.dumps(words, ensure_ascii=False))
    return (
        f'<div class="survey-control">{label}<input type="range" {shared} data-words="{told}" '
        f'min="0" max="{len(words) - 1}" step="1" value="{at}" '
        f'aria-valuetext="{escape(words[at])}" autocomplete="off">'
        f'<output for="{ident}">{escape(words[at])}</output>{why}</div>'
    )
