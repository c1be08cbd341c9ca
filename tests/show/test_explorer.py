import json
import re

import altair as alt
import pandas as pd
import pytest

from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, error_words, told
from survey_lib.show.markup import Html

GRID = pd.DataFrame(
    [
        {"keep": k, "net": n, "method": m, "seed": s,
         "accuracy": 0.9 - 0.1 / k / 20 - 0.001 * s - 0.01 * (n == "mlp")}
        for k in (1.0, 0.1, 0.05)
        for n in ("cnn", "mlp")
        for m in ("magnitude", "random")
        for s in range(3)
    ]
)  # fmt: skip
CONTROLS = [
    Control("keep", "Parameters kept", (1.0, 0.1, 0.05), 0.1, format=lambda v: f"{100 * v:g} %"),
    Control("net", "Net </script>", ("cnn", "mlp"), "mlp", kind="select"),
]


def chart(df, params):
    return (
        alt.Chart(df)
        .transform_filter((alt.datum.keep == params["keep"]) & (alt.datum.net == params["net"]))
        .mark_point()
        .encode(x="seed:Q", y="accuracy:Q", **style.vega_method("method", ["magnitude", "random"]))
    )


def explorer(**changes):
    arguments = {
        "controls": CONTROLS,
        "grid": GRID,
        "chart": chart,
        "live": lambda keep, net: Html(f"<p>{keep} {net}</p>", f"{keep} {net}"),
        "title": "How small?",
        "alt": "Accuracy by seed.",
        "caption": "Move it. Recorded runs.",
    }
    return Explorer("keep", **(arguments | changes))


def test_the_page_holds_exactly_the_recorded_grid():
    made = explorer()
    pd.testing.assert_frame_equal(made.inlined()[list(GRID)], GRID, check_dtype=False)
    # and so does the HTML, bit for bit
    script = re.search(r'class="survey-spec">(.*?)</script>', made.html(), flags=re.DOTALL)[1]
    (packed,) = json.loads(script)["datasets"].values()
    there = pd.DataFrame(packed["rows"], columns=packed["columns"])
    pd.testing.assert_frame_equal(there[list(GRID)], GRID, check_dtype=False, check_exact=True)
    assert script.count("accuracy") < len(GRID)  # names are said once, not in every row


def test_large_grids_are_inlined_too():
    many = pd.concat([GRID] * 150, ignore_index=True)
    assert len(explorer(grid=many).inlined()) == len(many) > 5000


def test_parameters_start_at_the_defaults_and_filter_the_chart():
    spec = explorer().spec()
    assert spec["params"] == [{"name": "c_keep", "value": 0.1}, {"name": "c_net", "value": "mlp"}]
    assert "datum.keep === c_keep" in spec["transform"][0]["filter"]
    assert "$schema" not in spec
    assert "http" not in json.dumps(spec)
    assert spec["description"] == "Accuracy by seed."


@pytest.mark.parametrize("combine", [alt.layer, alt.hconcat])
def test_layered_and_joined_charts_get_the_parameters_once(combine):
    spec = explorer(chart=lambda df, p: combine(chart(df, p), chart(df, p))).spec()
    assert [p["name"] for p in spec["params"]] == ["c_keep", "c_net"]
    assert ("width" in spec) == (combine is alt.layer)


def test_a_parameter_the_chart_adds_itself_is_not_added_twice():
    spec = explorer(chart=lambda df, p: chart(df, p).add_params(p["keep"])).spec()
    assert sorted(p["name"] for p in spec["params"]) == ["c_keep", "c_net"]


def test_controls_are_labelled_and_step_over_the_recorded_values():
    html = explorer().html()
    slider = re.search(r'<input type="range"[^>]*>', html)[0]
    assert 'min="0" max="2" step="1" value="1"' in slider
    assert 'data-values="[1.0, 0.1, 0.05]"' in slider
    assert 'aria-valuetext="10 %"' in slider
    ident = re.search(r'id="([^"]+)"', slider)[1]
    assert f'<label for="{ident}">Parameters kept</label>' in html
    assert f'<output for="{ident}">10 %</output>' in html
    select = re.search(r"<select.*?</select>", html)[0]
    assert '<option value="1" selected>mlp</option>' in select
    # one script element only: a label cannot close it
    assert html.count("</script>") == 1


def test_all_rows_are_there_without_javascript():
    made = explorer(table_columns={"keep": "kept", "accuracy": "test accuracy"})
    html, once = made.html(), made.grid[["keep", "accuracy"]].drop_duplicates()
    details = re.search(r"<details.*</details>", html, flags=re.DOTALL)[0]
    assert len(re.findall(r"<tr>", details)) == len(once) + 1 > 3
    assert "test accuracy" in details
    assert 'class="survey-controls" hidden' in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": GRID.drop(columns="net")}, "no column 'net'"),
        ({"grid": GRID[GRID.keep != 0.05]}, r"no recorded row has keep in \[0.05\]"),
        ({"grid": GRID[:0]}, "at least one"),
        ({"controls": []}, "at least one"),
        ({"alt": ""}, "alt is empty"),
        ({"controls": [Control("keep", "K", (1.0,), 0.1)]}, "default 0.1"),
        ({"controls": [Control("keep", "K", (1.0,), 1.0, kind="knob")]}, "slider or select"),
        ({"table_columns": ["acc"]}, "no column 'acc'"),
    ],
)
def test_what_cannot_be_explored_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        explorer(**changes)


def controls_of(widget):
    import ipywidgets as widgets

    found = {}
    for child in widget.children:
        if isinstance(child, widgets.SelectionSlider | widgets.Dropdown):
            found[child.description] = child
        if isinstance(child, widgets.Button):
            found["button"] = child
        if isinstance(child, widgets.HTML):
            found["status"] = child  # the last one
    return found


def test_moving_a_control_in_a_kernel_computes_with_its_value():
    calls = []
    made = explorer(live=lambda keep, net: calls.append((keep, net)))
    boxes = controls_of(made.widget())
    assert calls == [], "the first state shows the recorded grid, nothing is run"
    boxes["Parameters kept"].value = 0.05
    assert calls == [(0.05, "mlp")]
    assert "Computed here" in boxes["status"].value
    assert made.widget() is made.widget()


def test_a_slow_explorer_waits_for_its_button_and_tells_progress():
    calls, told = [], []

    def live(keep, net, progress):
        progress(1, 4, "one of four")
        told.append(boxes["status"].value)
        calls.append(keep)

    made = explorer(live=live, slow=True)
    boxes = controls_of(made.widget())
    boxes["Parameters kept"].value = 1.0
    assert calls == []
    assert "Press Run" in boxes["status"].value
    boxes["button"].click()
    assert calls == [1.0]
    assert told == ["one of four"]
    assert boxes["button"].disabled is False


def test_a_failure_is_one_sentence_and_the_explorer_lives_on():
    def live(keep, net):
        if keep == 0.05:
            raise RuntimeError("no <room> left\nand a long story")

    boxes = controls_of(explorer(live=live).widget())
    boxes["Parameters kept"].value = 0.05
    assert "no &lt;room&gt; left" in boxes["status"].value
    assert "long story" not in boxes["status"].value
    boxes["Parameters kept"].value = 1.0
    assert "Computed here" in boxes["status"].value
    assert error_words(KeyError()) == "KeyError"


def test_the_recorded_rows_at_a_setting_are_shown_first():
    text = explorer().recorded({"keep": 0.05, "net": "cnn"}).text
    expected = GRID[(GRID.keep == 0.05) & (GRID.net == "cnn")]
    assert len(expected) == 6
    assert text.count("cnn") == 6 + 1  # the rows, and the caption
    assert "mlp" not in text


def test_one_cell_serves_the_kernel_and_the_page():
    made = explorer()
    bundle = made._repr_mimebundle_()
    assert bundle["text/html"] == made.html()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view == {"version_major": 2, "version_minor": 0, "model_id": made.widget().model_id}


# α counts for one of two methods only
IDLE = pd.DataFrame(
    [
        {
            "kind": kind,
            "alpha": a,
            "error": 0.1 if kind == "plain" else a,
            "list": [1, None],
        }
        for kind in ("plain", "split")
        for a in (3.0, 6.0)
    ]
)


def resting(idle="Only split has a threshold."):
    alpha = Control("alpha", "α", (3.0, 6.0), 6.0, idle=idle)
    kind = Control("kind", "Multiply", ("plain", "split"), "plain", kind="select")
    return explorer(
        controls=[kind, alpha],
        grid=IDLE,
        chart=lambda df, params: alt.Chart(df).mark_point().encode(x="error:Q"),
        live=lambda kind, alpha: Html(kind, kind),
        table_columns=("kind", "alpha", "error"),
    )


def test_a_control_that_changes_nothing_rests_and_says_why():
    made = resting()
    assert made.idle("alpha", {"kind": "plain", "alpha": 3.0})
    assert not made.idle("alpha", {"kind": "split", "alpha": 3.0})
    assert not made.idle("kind", {"kind": "plain", "alpha": 3.0})
    page = made.html()
    (control,) = re.findall(r"<input[^>]*c_alpha[^>]*>", page)
    assert 'data-idle="[&quot;0&quot;]"' in control  # the first of the kinds
    assert "Only split has a threshold." in page
    assert "data-idle" not in re.findall(r"<select[^>]*>", page)[0]


def test_no_control_rests_without_a_reason():
    with pytest.raises(ValueError, match="alpha changes nothing at some settings; say why"):
        resting(idle="")


def test_in_a_kernel_a_resting_control_is_disabled_until_it_counts():
    made = resting()
    _, kind, alpha, reason, *_ = made.widget().children
    assert alpha.disabled
    assert "Only split" in reason.value
    kind.value = "split"
    assert not alpha.disabled
    assert reason.value == ""


def test_words_and_labels_have_three_digits():
    control = Control("x", "x", (0.123456, 1234.5, 4000, 2.0), 2.0)
    assert [control.words(v) for v in control.values] == ["0.123", "1\u202f230", "4\u202f000", "2"]

    def labelled(text):
        return explorer(
            chart=lambda df, params: alt.Chart(df).mark_text().encode(x="seed:Q", text=text)
        )

    labelled(told("accuracy")).spec()
    labelled(told("accuracy", percent=True)).spec()
    for loose in (alt.Text("accuracy:Q"), alt.Text("accuracy:Q", format=".1%")):
        with pytest.raises(ValueError, match="text of 'accuracy' may have more than three digits"):
            labelled(loose).spec()


def test_a_method_has_its_colour_whatever_is_left_over():
    colour = by_method("method", {"m": "magnitude", "r": "random"}).to_dict()
    assert colour["scale"]["domain"] == ["m", "r"]
    assert colour["scale"]["range"] == [style.css("magnitude"), style.css("random")]
    assert colour["legend"] is None


def test_the_table_has_no_value_where_a_control_changes_nothing():
    page = resting().html()
    body = re.search(r"<tbody>(.*?)</tbody>", page, flags=re.DOTALL)[1]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in body.split("<tr>")[1:]]
    plain = [row for row in rows if "plain" in row]
    split = [row for row in rows if "split" in row]
    assert all(any("–" in cell for cell in row) for row in plain)
    assert not any("–" in cell for row in split for cell in row)
    assert len({tuple(row) for row in rows}) == len(rows), "a run stands there twice"
    assert len(split) == 2 * len(plain)
