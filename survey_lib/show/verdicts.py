"""Verdicts as a reader sees them: the table of part 9, and sentences that hold or fail."""

from collections.abc import Sequence

from survey_lib.evidence.verdicts import MINIMUM_SEEDS, SIGNS, Verdict
from survey_lib.show import page
from survey_lib.show.markup import (
    LIVE_STYLE,
    Html,
    anchor,
    decimals_for,
    escape,
    mean_words,
    number,
    range_words,
    region_words,
)
from survey_lib.show.tables import records_link


class VerdictChanged(AssertionError):
    """A sentence of the page rests on a verdict that is another one now."""


def verdict_table(
    verdicts: Sequence[Verdict] | None = None, *, code_changed_since: str = ""
) -> Html:
    """The table of verdicts, one row per claim with the id ``verdict-<claim id>``.

    Args:
        verdicts: by default those of the open page.
        code_changed_since: commit the records were made at, where the code has changed since;
            empty where it has not.
    """
    shown = page.remember(verdicts) if verdicts is not None else [*page.page_verdicts().values()]
    head = "".join(
        f'<th scope="col" role="columnheader">{words}</th>'
        for words in ("The paper says", "It holds here if", "Found", "Verdict")
    )
    rows = "".join(map(_row, shown))
    changed = ""
    if code_changed_since:
        made_at = escape(code_changed_since)
        changed = f" <strong>Made at commit {made_at}; the code has changed since.</strong>"
    source = records_link(page.CONTEXT.slug) if page.CONTEXT.slug else ""
    markup = LIVE_STYLE + (
        '<div class="survey survey-verdicts"><table role="table"><caption><span>Each claim, the '
        "rule fixed before the run, and what came out. Intervals are 95 % Student’s t over seeds."
        f'{changed}</span></caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table>{source}</div>'
    )
    return Html(markup, "\n".join(_plain(v) for v in shown))


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    rule = (
        f'<span class="region">{region_words(claim.region, escape(claim.unit))}</span>'
        f'<span class="survey-small">{escape(claim.measures)}</span>'
    )
    notes = [escape(verdict.reason)] if verdict.reason else []
    needed = max(verdict.seeds_needed or 0, MINIMUM_SEEDS)
    if verdict.seeds_needed and needed > len(verdict.values):
        notes.append(f"about {number(needed)} seeds would decide")
    if verdict.changed:
        notes.append('<strong class="survey-flag">changed after the run</strong>')
    told = "".join(f'<span class="survey-small">{note}</span>' for note in notes)
    return (
        f'<tr role="row" id="verdict-{anchor(claim.id)}" class="{anchor(verdict.word)}">'
        f'<th scope="row" role="rowheader">{escape(claim.sentence)}'
        f'<span class="survey-small">{escape(claim.where)}</span></th>'
        f'<td role="cell" data-label="It holds here if">{rule}</td>'
        f'<td role="cell" data-label="Found">{_found(verdict)}</td>'
        f'<td role="cell" data-label="Verdict"><span class="word">'
        f'<span class="sign" aria-hidden="true">{verdict.sign}</span> {verdict.word}</span>'
        f"{told}</td></tr>"
    )


def _found(verdict: Verdict) -> str:
    interval = verdict.interval
    if interval is None:
        return '<span class="survey-small">not measured</span>'
    text = (
        f'<span class="mean">{mean_words(interval)}</span>'
        f'<span class="interval">{range_words(interval)}</span>'
    )
    if interval.low == interval.high or not verdict.values:
        return text  # every run gave this number, and the words say so
    runs = len(verdict.values)
    text += f'<span class="survey-small">{runs} {"seed" if runs == 1 else "seeds"}</span>'
    places = decimals_for(interval) + 1
    items = "".join(
        f"<li><span>{seed}</span> {number(value, places)}</li>"
        for seed, value in sorted(verdict.values.items())
    )
    return (
        f"{text}<details><summary>each seed</summary>"
        f'<ul class="seeds" aria-label="Seed and value">{items}</ul></details>'
    )


def _plain(verdict: Verdict) -> str:
    words = f"{verdict.sign} {verdict.word}: {verdict.claim.sentence}"
    if verdict.interval is not None:
        words += f" {mean_words(verdict.interval)} {range_words(verdict.interval)}"
    return words + (f" ({verdict.reason})" if verdict.reason else "")


def say(verdict: Verdict | str, expected: str, text: str) -> Html:
    """A sentence of the page that is shown only while the verdict behind it stands.

    Args:
        verdict: the verdict, or the claim id of one of the open page.
        expected: the word the sentence was written for.
        text: the sentence; ``{mean}``, ``{interval}``, ``{low}``, ``{high}`` and ``{n}`` are
            replaced by the verdict's numbers.

    Raises:
        VerdictChanged: the verdict is another one now; rewrite the sentence.
        ValueError: ``expected`` is no verdict, the claim is unknown, or ``text`` asks for a
            number that the verdict does not have.
    """
    if expected not in SIGNS:
        raise ValueError(f"expected must be one of {', '.join(SIGNS)}, not {expected!r}")
    if isinstance(verdict, str):
        known = page.page_verdicts()
        if verdict not in known:
            raise ValueError(f"no verdict on claim {verdict!r}; there are: {', '.join(known)}")
        verdict = known[verdict]
    claim = verdict.claim.id
    if verdict.word != expected:
        raise VerdictChanged(
            f"claim {claim!r}: the sentence expects {expected!r}, "
            f"the verdict is {verdict.word!r}; rewrite the sentence"
        )
    numbers: dict[str, str] = {}
    if verdict.interval is not None:
        places = decimals_for(verdict.interval)
        numbers = {
            "mean": number(verdict.interval.mean, places),
            "low": number(verdict.interval.low, places),
            "high": number(verdict.interval.high, places),
            "interval": range_words(verdict.interval),
            "n": str(verdict.interval.n),
        }
    try:
        sentence = text.format(**numbers)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"claim {claim!r}: the text asks for {error}, not a number it has"
        ) from None
    return Html(
        f'<p class="survey survey-say {anchor(verdict.word)}"><a class="word" '
        f'href="#verdict-{anchor(claim)}"><span class="sign" aria-hidden="true">{verdict.sign}'
        f"</span> {verdict.word}</a> {escape(sentence)}</p>",
        f"{verdict.sign} {sentence}",
    )
