"""Explorers: move a parameter, see the result; recorded on the page, live in a kernel."""

import inspect
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.show import style
from survey_lib.show.markup import LIVE_STYLE, anchor, escape, lead, number
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
    """Turns a value into words; by default numbers as the tables write them."""

    def words(self, value: Any) -> str:
        """``value`` as a reader sees it."""
        if self.format is not None:
            return self.format(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number(value)
        return str(value)


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
        self.chart, self.live, self.slow = chart, live, slow
        self.title, self.alt, self.caption, self.heads = title, alt, caption, heads
        self._widget: Any = None

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

    def inlined(self) -> pd.DataFrame:
        """The rows the page's chart holds, read back from its specification."""
        rows = [row for data in self.spec()["datasets"].values() for row in data]
        return pd.DataFrame(rows)

    def html(self) -> str:
        """The explorer as the page holds it: controls, chart, the numbers as a table."""
        name = f"explorer-{self.name}"
        controls = "".join(_control_html(name, c) for c in self.controls)
        spec = json.dumps(self.spec(), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
        shown = self._shown(self.grid)
        rows = table(shown, caption=f"All recorded runs: {self.title}").html
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
        """The columns of the fallback table, under the heads a reader sees."""
        # one run may fill several rows of the grid: the points of its curve
        once = rows.loc[:, list(self.heads)].drop_duplicates()
        return once.set_axis(list(self.heads.values()), axis=1)

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

        def moved(*_: Any) -> None:
            if self.slow:
                status.value = "Press Run to compute these settings."
            else:
                compute()

        for box in inputs.values():
            box.observe(moved, names="value")
        button.on_click(compute)
        show(self.recorded(values()))
        row = [button] if self.slow else []
        head = widgets.HTML(f"<b>{escape(self.title)}</b>")
        return widgets.VBox([head, *inputs.values(), *row, bar, status, output])

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


def _control_html(prefix: str, control: Control) -> str:
    ident = f"{prefix}-{anchor(control.field)}"
    at = list(control.values).index(control.default)
    data = escape(json.dumps([_plain(v) for v in control.values], allow_nan=False))
    words = [control.words(v) for v in control.values]
    shared = f'id="{ident}" data-param="{_parameter(control)}" data-values="{data}"'
    label = f'<label for="{ident}">{escape(control.label)}</label>'
    if control.kind == "select":
        options = "".join(
            f'<option value="{i}"{" selected" if i == at else ""}>{escape(w)}</option>'
            for i, w in enumerate(words)
        )
        return f'<div class="survey-control">{label}<select {shared}>{options}</select></div>'
    told = escape(json.dumps(words, ensure_ascii=False))
    return (
        f'<div class="survey-control">{label}<input type="range" {shared} data-words="{told}" '
        f'min="0" max="{len(words) - 1}" step="1" value="{at}" '
        f'aria-valuetext="{escape(words[at])}" autocomplete="off">'
        f'<output for="{ident}">{escape(words[at])}</output></div>'
    )
