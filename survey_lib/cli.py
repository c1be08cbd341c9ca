"""The ``survey`` command."""

import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from typer.core import TyperGroup

STOPPED = 130
"""Exit status of a command that was interrupted."""
# the base of all errors in how a command is called; typer itself does not name it
_BadCall: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class OneSentence(TyperGroup):
    """The command with its parts; whatever is wrong with a call is told in one sentence."""

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run a command line, and end the process unless ``standalone_mode`` is off."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **more)
        try:
            status = super().main(*args, standalone_mode=False, **more)
        except _BadCall as why:
            if type(why).__name__ == "NoArgsIsHelpError":
                why.show()
                sys.exit(2)
            context = getattr(why, "ctx", None)
            words = " ".join(why.format_message().split()).rstrip(".")
            _end(f"{words}; see {context.command_path if context else 'survey'} --help", 2)
        except typer.Abort:
            _end("stopped; what was finished is kept", STOPPED)
        sys.exit(status if isinstance(status, int) else 0)

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*args, **more)
        except KeyboardInterrupt:  # typer would end without a word
            _end("stopped; what was finished is kept", STOPPED)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _end("stopped; what was finished is kept", STOPPED)


def _end(words: str, status: int) -> Never:
    typer.secho(f"survey: {words}", fg="red", err=True)
    sys.exit(status)


app = typer.Typer(
    cls=OneSentence,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run the survey's experiments, judge its claims, build its book.",
)

Profile = Annotated[str, typer.Option(help="smoke, quick, study, full or tune")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="worker processes; default: this machine's cores")
]


def _finite(value: float | None) -> float | None:
    """A number of the command line that is one."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


@contextmanager
def _one_sentence():
    """Turn the errors we raise on purpose into one line and exit code 1."""
    from survey_lib.cards.card import CardError
    from survey_lib.evidence.protocol import Ambiguous, MissingArm
    from survey_lib.evidence.records import RecordError
    from survey_lib.experiments.runner import RunError
    from survey_lib.measure.macs import MacsError
    from survey_lib.mechanics.sparse import StorageError
    from survey_lib.publish.layout import PublishError
    from survey_lib.tasks.data import DataError

    expected = (
        CardError, RecordError, RunError, PublishError, DataError, StorageError, MacsError,
        Ambiguous, MissingArm, ValueError, OSError, ArithmeticError, MemoryError,
    )  # fmt: skip
    try:
        yield
    except BrokenPipeError:  # whoever reads our output has had enough
        raise
    except expected as why:
        typer.secho(f"survey: {_sentence(why)}", fg="red", err=True)
        raise typer.Exit(1) from None


def _sentence(why: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(why, OSError) and why.strerror:
        return f"{why.strerror}{f': {why.filename}' if why.filename else ''}"
    return " ".join(str(why).split()) or type(why).__name__


@app.command("list")
def list_cards(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List the papers."""
    from survey_lib.cards.card import read_card, slugs
    from survey_lib.experiments import EXPERIMENTS

    with _one_sentence():
        rows = [
            {
                "slug": c.slug,
                "title": c.title,
                "authors": c.authors,
                "year": c.year,
                "group": c.group,
                "tags": c.tags,
                "claims": len(c.claims),
                "chapter": c.slug in EXPERIMENTS,
            }
            for c in map(read_card, slugs())
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for r in rows:
        state = "chapter" if r["chapter"] else "planned"
        typer.echo(f"{r['slug']:26} {r['year']}  {r['claims']:2} claims  {state}  {r['title']}")


@app.command()
def run(
    slug: Annotated[str | None, typer.Argument(help="a chapter; all when left out")] = None,
    profile: Profile = "quick",
    jobs: Jobs = None,
    missing: Annotated[
        bool, typer.Option(help="keep committed records, run only cells that have none")
    ] = False,
    dask: Annotated[str, typer.Option(help="scheduler, e.g. tcp://host:8786")] = "",
) -> None:
    """Run a chapter's cells that are not done yet; study, full and tune are written to results/."""
    from survey_lib.evidence.reading import study
    from survey_lib.experiments import EXPERIMENTS, runner

    failures = 0
    with _one_sentence():
        pool = _dask_pool(dask) if dask else runner.local_pool
        for name in list(EXPERIMENTS) if slug is None else [slug]:
            known = study(name, profile) if missing else []
            records = runner.run(name, profile, jobs=jobs, make_pool=pool, known=known)
            failed = [r for r in records if r.status != "done"]
            for record in failed:
                why = (record.error.strip().splitlines() or ["no reason was given"])[-1]
                made = record.provenance
                path = runner.cell_path(name, record.key, made["code"], made["data"])
                config = json.dumps(record.config)
                typer.echo(f"failed: {config}: {why}; its traceback is in {path}", err=True)
            seconds = sum(r.provenance["seconds"] for r in records)
            typer.echo(
                f"{name} {profile}: {len(records) - len(failed)} of {len(records)} cells done, "
                f"{seconds:.0f} core-seconds in all"
            )
            if profile in ("study", "full", "tune") and records and not failed:
                typer.echo(f"written: {runner.commit_study(name, profile, records)}")
            failures += len(failed)
    if failures:
        raise typer.Exit(1)


def _dask_pool(address: str) -> Any:
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("--dask needs the cluster extra: pip install '.[cluster]'") from None
    return lambda _jobs: Client(address).get_executor()


@app.command()
def claims(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show every claim with its verdict, and its effect in points, nats or times."""
    from survey_lib.experiments import EXPERIMENTS, judging
    from survey_lib.show.markup import mean_words, range_words, unit_words

    with _one_sentence():
        states = {s: judging.state(s).word if judging.study(s) else "none" for s in EXPERIMENTS}
        rows = [
            {
                "chapter": slug,
                "claim": v.claim.id,
                "title": v.claim.title,
                "kind": v.claim.kind,
                "verdict": v.word,
                "mean": v.interval.mean if v.interval else None,
                "low": v.interval.low if v.interval else None,
                "high": v.interval.high if v.interval else None,
                "seeds": len(v.values),
                "unit": v.claim.unit,
                "effect": ""
                if v.interval is None
                else f"{mean_words(v.interval, v.claim.unit)} {unit_words(v.claim.unit)}, "
                f"{range_words(v.interval, unit=v.claim.unit)}",
                "region": v.claim.region,
                "seeds_needed": v.seeds_needed,
                "changed_after_run": v.changed,
                "reason": v.reason,
                "study": states[slug],
            }
            for slug in EXPERIMENTS
            for v in judging.verdicts(slug)
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from survey_lib.evidence.verdicts import SIGNS

    for r in rows:
        typer.echo(
            f"{r['chapter']:18} {r['kind']:10} {r['title']:40} {SIGNS[r['verdict']]} "
            f"{r['verdict']:15} {r['effect']:44} n={r['seeds']}"
        )


@app.command()
def verify(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG]...", help="chapters; all when left out")
    ] = None,
    changed: Annotated[
        bool, typer.Option(help="only studies neither current nor attested under today's code")
    ] = False,
    write: Annotated[
        bool, typer.Option(help="append what came out to results/attest; needs a clean tree")
    ] = False,
    against: Annotated[
        str,
        typer.Option(
            metavar="COMMIT",
            help="compare with that commit's code, run here too, instead of with the records",
        ),
    ] = "",
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, callback=_finite, help="per chapter, add random cells up to about this long"
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=0, help="per chapter, random cells beside one of each arm")
    ] = None,
    seed: Annotated[int, typer.Option(help="which random cells")] = 0,
    jobs: Jobs = None,
) -> None:
    """Re-run recorded cells, at least one of each arm, and compare every number in them."""
    from survey_lib.experiments import EXPERIMENTS, judging, runner
    from survey_lib.experiments.verify import verify as attested

    agree = True
    with _one_sentence():
        for name in slugs or list(EXPERIMENTS):
            runner.experiment(name)  # a slug that is none is an error, not a study to come
            if changed:
                word = judging.state(name).word if judging.study(name) else "no study yet"
                if word != judging.UNATTESTED:
                    typer.echo(f"{name}: {word}, nothing to do")
                    continue
            note = attested(
                name, write=write, against=against, sample=sample, seconds=seconds, seed=seed,
                jobs=jobs,
            )  # fmt: skip
            agree &= note.agrees
            for line in note.disagreements:
                typer.echo(line, err=True)
            worst = note.worst.get("difference", 0.0)
            typer.echo(
                f"{name}: {'agrees' if note.agrees else 'DISAGREES'}; {len(note.cells)} cells, "
                f"{note.numbers} numbers, {sum(c['exact'] for c in note.cells)} cells to the bit; "
                f"worst difference {worst:.3g} {note.worst.get('path', '')}".rstrip()
            )
    if not agree:
        raise typer.Exit(1)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="a model, or all")],
    keep: Annotated[
        list[int] | None,
        typer.Option(help="keep the dense net of this seed with the records instead; repeatable"),
    ] = None,
) -> None:
    """Retrain the dense net 0 that the package ships, or keep others for pieces of a study."""
    import torch

    from survey_lib.experiments import nets
    from survey_lib.tasks import dense, task
    from survey_lib.tasks import train as training

    torch.set_num_threads(1)  # the same bytes whatever the number of cores
    with _one_sentence():
        if keep:
            for path in nets.keep(task.load_task(model), keep):
                typer.echo(f"{path.name}: {path.stat().st_size:,} bytes")
            return
        for name in dense.OWN if model == "all" else [model]:
            path = dense.ship(name)
            result = training.evaluate(dense.shipped_net(name), (t := task.load_task(name)).test, t)
            typer.echo(f"{path.name}: {path.stat().st_size:,} bytes, test {result}")


@app.command()
def prune(
    model: Annotated[
        str,
        typer.Option(
            help="torchvision:NAME, PATH.py:FUNCTION, a model of the survey, or hf:PATH or hf:NAME "
            "of a language model"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the pruned net and the report")],
    data: Annotated[str, typer.Option(help="imagefolder:PATH with train/ and test/ in it")] = "",
    text: Annotated[
        Path | None, typer.Option(help="of a language model: what it is calibrated and measured on")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="fisher, taylor, l1, l2, thinet, …; of a language model random, magnitude, taylor,"
            " fisher or sensitivity"
        ),
    ] = "fisher",
    keep: Annotated[
        str,
        typer.Option(
            help="macs=, params= or activations= a fraction; of a language model neurons="
        ),
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="safetensors of the trained net; else it is trained here")
    ] = None,
    size: Annotated[
        int, typer.Option(min=1, max=4096, help="pixels that images are resized to")
    ] = 64,
    train_epochs: Annotated[float, typer.Option(callback=_finite, help="without --weights")] = 8.0,
    tune_epochs: Annotated[
        float, typer.Option(callback=_finite, help="of tuning in all; 0 tunes nothing")
    ] = 4.0,
    lr: Annotated[float, typer.Option(callback=_finite, help="peak learning rate")] = 0.02,
    batch: Annotated[int, typer.Option(help="images a step")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**31)] = 0,
    window: Annotated[int, typer.Option(help="tokens, of a language model")] = 256,
) -> None:
    """Prune a net of your own on your own data, and print what it saved and cost.

    A language model (--model hf:…) loses neurons at once and is not tuned.
    """
    from survey_lib.mechanics.budget import Budget
    from survey_lib.methods import own_model

    if model.startswith("hf:"):
        from survey_lib.methods import own_language

        with _one_sentence():
            found = own_language.prune(
                model, text, method, keep or "neurons=0.8", out, window=window, seed=seed,
                say=lambda line: typer.echo(line, err=True),
            )  # fmt: skip
        typer.echo(str(found))
        typer.echo(f"\nwritten: {out / 'recipe.json'}, weights.safetensors, report.json")
        return
    with _one_sentence():
        if text is not None:
            raise ValueError("--text is for a language model: --model hf:…")
        result = own_model.prune(
            model, data, method, Budget.parse(keep or "macs=0.5"), out, weights=weights, size=size,
            train_epochs=train_epochs, tune_epochs=tune_epochs, lr=lr, batch=batch, seed=seed,
            say=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
    accuracy = " → ".join(f"{result.accuracy[k]:.4f}" for k in ("dense", "pruned"))
    typer.echo(f"test accuracy {accuracy}\n")
    typer.echo(str(result.comparison))
    typer.echo(f"\nwritten: {out / 'recipe.json'}, weights.safetensors, report.json")


@app.command("compare")
def compare_methods(
    model: Annotated[
        str,
        typer.Option(
            help="torchvision:NAME, timm:NAME, PATH.py:FUNCTION, or a model of the survey"
        ),
    ],
    data: Annotated[str, typer.Option(help="imagefolder:PATH with train/ and test/, or cifar10")],
    out: Annotated[Path, typer.Option(help="folder for the records and the page")],
    keep: Annotated[
        str, typer.Option(help="macs=, params= or activations= a fraction")
    ] = "macs=0.5",
    methods: Annotated[
        str,
        typer.Option(help="names with commas between them, as in l1,l1:scope=local,fisher; or all"),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, max=100)] = 3,
    tune_epochs: Annotated[float, typer.Option(callback=_finite, help="of tuning, each")] = 2.0,
    lr: Annotated[float, typer.Option(callback=_finite, help="the middle rate tried")] = 0.02,
    tries: Annotated[int, typer.Option(min=1, max=9, help="rates tried, 3 × apart")] = 3,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors of the trained net; else it is trained here")
    ] = None,
    size: Annotated[
        int, typer.Option(min=1, max=4096, help="pixels that images are resized to")
    ] = 64,
    train_epochs: Annotated[float, typer.Option(callback=_finite, help="without --weights")] = 8.0,
    batch: Annotated[int, typer.Option(help="images a step")] = 64,
    jobs: Jobs = None,
    as_json: Annotated[bool, typer.Option("--json", help="print plain data")] = False,
) -> None:
    """Compare pruning methods on a net of your own: equal rates, equal steps, intervals."""
    from survey_lib import files
    from survey_lib.experiments.own_net import compare as own
    from survey_lib.mechanics.budget import Budget
    from survey_lib.show import own_page

    names = () if methods == "all" else tuple(filter(None, methods.split(",")))
    with _one_sentence():
        request = own.Request(
            model, data, Budget.parse(keep), names, seeds, tune_epochs, lr, tries, size,
            train_epochs, batch, weights,
        )  # fmt: skip
        done = own.run(
            request, out, jobs=jobs, progress=not as_json,
            say=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
        found = own_page.data(done)
        files.write_atomic(out / "index.html", own_page.page(found))
        files.write_atomic(out / "compared.json", json.dumps(found, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        typer.echo(own_page.text(found))
        typer.echo(f"\nwritten: {out / 'index.html'}, compared.json, records.jsonl")
    if done.failed:
        raise typer.Exit(1)


@app.command()
def build(
    profile: Profile = "quick",
    jobs: Jobs = None,
    only: Annotated[list[str] | None, typer.Option(help="a chapter; may be repeated")] = None,
    explain: Annotated[
        bool, typer.Option(help="say why chapters would run; build nothing")
    ] = False,
) -> None:
    """Execute the chapters, stage, check and render the book."""
    from survey_lib.publish import build as building

    with _one_sentence():
        status = building.build(profile=profile, jobs=jobs, slugs=only, explain=explain)
    raise typer.Exit(status)


@app.command()
def check(
    sources: Annotated[bool, typer.Option(help="only what needs no built site")] = False,
    studies: Annotated[
        bool, typer.Option(help="only whether today's code vouches for each")
    ] = False,
) -> None:
    """Check sources and the built site; also fresh quick runs against the committed study.

    A chapter that lacks something is named as a draft, with what it lacks; that is no failure.
    """
    from survey_lib.experiments import EXPERIMENTS
    from survey_lib.publish import layout
    from survey_lib.publish.check_numbers import check_numbers, check_studies
    from survey_lib.publish.check_site import check_site
    from survey_lib.publish.check_sources import check_sources
    from survey_lib.publish.missing import missing
    from survey_lib.publish.solutions import check_solutions

    with _one_sentence():
        for slug in () if studies else dict.fromkeys([*layout.chapters(), *EXPERIMENTS]):
            if lacks := missing(slug):
                typer.echo(f"draft: {slug} is not finished; it lacks:")
                for line in lacks:
                    typer.echo(f"  {line}")
        findings = [] if studies else check_sources()
        if not sources:
            findings += check_studies()
        if not (sources or studies):
            findings += check_numbers() + check_solutions() + check_site()
    for finding in findings:
        typer.echo(str(finding), err=True)
    if findings:
        raise typer.Exit(1)
    typer.echo("checked: nothing found")


@app.command()
def sync(
    repo: Annotated[str | None, typer.Option(help="address of the repository")] = None,
    ref: Annotated[
        str | None, typer.Option(help="what notebooks install: a release's tag, or main")
    ] = None,
) -> None:
    """Stamp address and release into notebooks and links; fold cells; fill README's table."""
    from survey_lib.publish import setup_cell

    with _one_sentence():
        for path in setup_cell.sync(repo, ref):
            typer.echo(f"stamped: {Path(path).name}")


@app.command()
def new(
    slug: Annotated[str, typer.Argument(help="the paper's short name: letters, digits and _")],
    survey_file: Annotated[
        Path | None, typer.Option("--from", help="Markdown file with one ### section a paper")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="words of the title, where the slug's don't tell")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="only list what the chapter still lacks")
    ] = False,
) -> None:
    """Draft a chapter that runs as it stands, and list what a finished one still lacks."""
    from survey_lib.cards.card import card_path
    from survey_lib.publish import layout
    from survey_lib.publish import missing as lacks
    from survey_lib.publish.scaffold import new_chapter

    with _one_sentence():
        if missing:
            card_path(slug)  # a slug without a card is a mistake
        else:
            for path in new_chapter(slug, survey_file=survey_file, title=title):
                typer.echo(f"written: {path.relative_to(layout.root()).as_posix()}")
        for line in lacks.missing(slug):
            typer.echo(f"missing: {line}")


def main() -> None:
    """Entry point of ``python -m survey_lib.cli``."""
    app()


if __name__ == "__main__":
    sys.exit(main())
