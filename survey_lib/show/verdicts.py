"""Verdicts as a reader sees them: the table of part 9, and sentences that hold or fail."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from survey_lib.cards.card import disputes, read_card, slugs
from survey_lib.evidence.verdicts import MINIMUM_SEEDS, SIGNS, Verdict
from survey_lib.show import page
from survey_lib.show.breaking import breaking
from survey_lib.show.claims import (
    by_kind,
    claim_row,
    claim_words,
    claims_table,
    found,
    signed_word,
    small,
    withdrawn_list,
)
from survey_lib.show.markup import (
    LIVE_STYLE,
    SHARE_OF_IMAGES,
    Html,
    amount,
    anchor,
    decimals_for,
    escape,
    in_unit,
    mean_words,
    number,
    range_words,
    safe,
)
from survey_lib.show.tables import records_link

if TYPE_CHECKING:  # it imports torch, which a page may not need
    from survey_lib.experiments.judging import State

MOST_NAMES = 6
"""Changed modules that a page names; the rest are counted."""


class VerdictChanged(AssertionError):
    """A sentence of the page rests on a verdict that is another one now."""


def verdict_table(
    verdicts: Sequence[Verdict] | None = None,
    *,
    state: "State | None" = None,
    replicates: Mapping[str, str] | None = None,
    over: str = "seeds",
    instead: Mapping[str, Mapping[str, Mapping[int, float]]] | None = None,
) -> Html:
    """The table of verdicts, one row per claim with the id ``verdict-<claim id>``.

    The paper's own claims come first; under the table stand claims that were judged before and
    replaced.

    Args:
        verdicts: by default those of the open page.
        state: of the study behind them; by default that of the open page when the verdicts are
            the page's too.
        replicates: claim id → what its replicates are, a plural in -s, where they are no seeds.
        over: what intervals are over, for the caption.
        instead: claim id → other ways to measure it, in words → value by replicate; by default
            those of the open page's study when the verdicts are the page's too.
    """
    slug, called = page.CONTEXT.slug, replicates or {}
    if verdicts is None:
        verdicts, state = list(page.page_verdicts().values()), state or page.page_state()
        instead = page.page_instead() if instead is None else instead
    others = instead or {}
    shown = by_kind(page.remember(verdicts))
    caption = (
        "Each claim, the rule fixed before the run, and what came out. Intervals are 95 % "
        f"Student’s t over {escape(over)}."
    )
    if state is not None:
        caption += f" {state_words(state)}"
    lines = []
    for v in safe(shown):
        runs = called.get(v.claim.id, "seeds")
        lines += [_row(v, slug, runs), breaking(v, runs, others.get(v.claim.id))]
    table = claims_table(filter(None, lines), caption)
    after = records_link(slug) if slug else ""
    if slug in slugs():
        after = withdrawn_list(read_card(slug).withdrawn) + after
    markup = LIVE_STYLE + table.removesuffix("</div>") + after + "</div>"
    return Html(markup, "\n".join(_plain(v) for v in shown))


def state_words(state: "State") -> str:
    """HTML that says how a study's records stand to today's code, with the sample it rests on."""
    commit = escape(state.commit)
    if state.word == "current":
        return f"Made at commit {commit}, with the code as it is today."
    names = [name.removeprefix("survey_lib.") for name in state.changed or ()]
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    where = escape(", ".join(names[:MOST_NAMES] + more))
    since = f"The code has changed since the run{where and f' ({where})'}"
    if state.word == "unattested":
        return f"<strong>{since}, and nothing of it was run again with today’s.</strong>"
    plural = "cell" if state.cells == 1 else "cells"
    worst = f"which differ by at most {number(state.worst)}" if state.worst else "all equal"
    return (
        f"{since}. Re-run at commit {commit}: {state.cells} {plural}, "
        f"{number(state.numbers)} numbers, {worst}."
    )


def _row(verdict: Verdict, slug: str, replicates: str) -> str:
    claim = verdict.claim
    notes = [verdict.reason] if verdict.reason else []
    needed = max(verdict.seeds_needed or 0, MINIMUM_SEEDS)
    if verdict.seeds_needed and needed > len(verdict.values):
        notes.append(f"about {number(needed)} {replicates} would decide")
    if verdict.changed:
        notes.append('<strong class="survey-flag">changed after the run</strong>')
    word = f'<span class="word">{signed_word(verdict.word)}</span>'
    return claim_row(
        claim,
        verdict.word,
        found(verdict) + _each_seed(verdict, replicates),
        word + "".join(map(small, notes)),
        ident=f"verdict-{anchor(claim.id)}",
        notes=[_disputed(other) for other in disputes(slug, claim)],
    )


def _disputed(other: str) -> str:
    """A claim that says the opposite; staging adds the link and how that one stands."""
    return (
        f'<span class="survey-small survey-dispute" data-claim="{escape(other)}">'
        f"disputed by {claim_words(other)}</span>"
    )


def fill_disputes(markup: str, told: Callable[[str], str]) -> str:
    """A table's HTML with ``told(slug/claim-id)`` in place of each disputing claim's bare name."""
    pattern = r'(<span class="survey-small survey-dispute" data-claim="([^"]+)">)[^<]*(?=</span>)'
    return re.sub(pattern, lambda f: f"{f[1]}disputed by {told(f[2])}", markup)


def _each_seed(verdict: Verdict, replicates: str) -> str:
    interval, unit = verdict.interval, verdict.claim.unit
    if interval is None or interval.low == interval.high or not verdict.values:
        return ""  # every run gave this number, and the words say so
    runs, one = len(verdict.values), escape(replicates.removesuffix("s"))
    places = decimals_for(in_unit(interval, unit)) + 1
    items = "".join(
        f"<li><span>{seed}</span> {amount(value, unit, places)}</li>"
        for seed, value in sorted(verdict.values.items())
    )
    return (
        f"{small(f'{runs} {one}' + 's' * (runs > 1))}<details><summary>each {one}</summary>"
        f'<ul class="seeds" aria-label="{one.capitalize()} and value">{items}</ul></details>'
    )


def _plain(verdict: Verdict) -> str:
    words = f"{verdict.sign} {verdict.word}: {verdict.claim.sentence}"
    if verdict.interval is not None:
        unit = verdict.claim.unit
        words += f" {mean_words(verdict.interval, unit)} {range_words(verdict.interval, unit=unit)}"
    return words + (f" ({verdict.reason})" if verdict.reason else "")


def say(verdict: Verdict | str, expected: str, text: str) -> Html:
    """A sentence of the page that is shown only while the verdict behind it stands.

    Args:
        verdict: the verdict, or the claim id of one of the open page.
        expected: the word the sentence was written for.
        text: the sentence; ``{mean}``, ``{interval}``, ``{low}``, ``{high}`` and ``{n}`` are
            replaced by the verdict's numbers, ``{points}`` and ``{points_interval}`` by a hundred
            times as much, with a sign.

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
            "points": mean_words(verdict.interval, SHARE_OF_IMAGES),
            "points_interval": range_words(verdict.interval, unit=SHARE_OF_IMAGES),
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
