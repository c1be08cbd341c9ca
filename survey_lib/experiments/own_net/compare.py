"""Methods compared on a net of one's own: what is refused, what is run, and what came out.

The rules are the chapters': every method starts from the same dense nets, spends the same tuning at
equally many rates, keeps the rate that is best on validation images, and is compared seed by seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from survey_lib.evidence.intervals import Interval, t_interval
from survey_lib.evidence.protocol import by_cell
from survey_lib.evidence.reading import read_records
from survey_lib.evidence.records import Record, machine, write_records
from survey_lib.experiments import runner
from survey_lib.experiments.context import artefacts, cell_key, plain
from survey_lib.experiments.own_net.cells import Cell
from survey_lib.measure.compare import Comparison, compare
from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import GraphError, trace_groups
from survey_lib.mechanics.surgery import load_compressed
from survey_lib.methods import contract
from survey_lib.methods.asked import EVEN, asked
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.own import fingerprint, load_weights, own_splits, own_task
from survey_lib.tasks.task import Task, Training

SLUG = "own_net"
FACTOR = 3.0
"""From one learning rate that is tried to the next."""
LONGER = "dense, trained on"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Request:
    """What is to be compared."""

    spec: str
    data: str
    budget: Budget
    methods: tuple[str, ...] = ()
    """Names, with settings where they differ from the defaults; empty: all of kind ``channels``
    that are steered by a budget and can work here, and magnitude within equal shares."""
    seeds: int = 3
    tune_epochs: float = 2.0
    lr: float = 0.02
    """The middle one of the rates that are tried."""
    tries: int = 3
    size: int = 64
    train_epochs: float = 8.0
    batch: int = 64
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.tries < 1 or self.batch < 1:
            raise ValueError("need at least one seed, one rate to try and one image a step")
        if self.train_epochs <= 0 or self.tune_epochs <= 0 or self.lr <= 0:
            raise ValueError("need train epochs, tune epochs and a learning rate above 0")

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates that every method tries, ascending, a factor of three apart."""
        middle = (self.tries - 1) / 2
        return tuple(float(f"{self.lr * FACTOR ** (i - middle):.3g}") for i in range(self.tries))


@dataclass(frozen=True)
class Line:
    """One method, at its own best rate."""

    name: str
    label: str
    lr: float
    at_edge: bool
    """Whether its best rate is the smallest or the largest that was tried."""
    test: Interval
    """Accuracy over the seeds."""
    lead: Interval | None
    """Seed by seed, its accuracy minus that of ℓ1; None for ℓ1 and where ℓ1 is not compared."""
    macs: float
    params: float
    seconds: float
    """Of choosing, cutting and tuning, mean."""


@dataclass(frozen=True)
class Compared:
    """What came out."""

    request: Request
    dense: Interval
    lines: tuple[Line, ...]
    """The most accurate first."""
    left_out: Mapping[str, str]
    """Method → why it cannot work here."""
    failed: Mapping[str, str]
    """Method → how a run of it ended."""
    comparison: Comparison | None
    """Sizes and times of seed 0's nets, measured in turns; None where a single net is left."""
    records: tuple[Record, ...]
    made: Mapping[str, Any]
    """The machine."""


def run(
    request: Request,
    out: Path,
    *,
    jobs: int | None = None,
    make_pool: Callable[[int], Executor] = runner.local_pool,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Compared:
    """Run what is not yet done, keep every finished net as a record in ``out``, and judge.

    Args:
        request: what is compared.
        out: folder; ``records.jsonl`` in it is read first and no run in it is made again.
        jobs: worker processes.
        make_pool: jobs → executor; local processes by default.
        progress: show one bar.
        say: receives a line where a method is left out.

    Raises:
        ValueError: unknown net, data or method, a budget out of reach, or nothing that can work;
            all before anything is trained.
        DataError: images or weights are missing or damaged.
        GraphError, MacsError: the net cannot be followed or counted.
        RunError: the dense net could not be trained.
    """
    splits = own_splits(request.data, size=request.size)
    task = own_task(request.spec, splits, Training(request.train_epochs, request.batch))
    names, left_out = _able(request, task)
    for name, why in left_out.items():
        say(f"left out: {name}: {why}")
    cells = _cells(request, names)
    found = _run(cells, out, jobs, make_pool, progress)
    numbers = by_cell(found.values(), Cell)
    broken = [r for c, r in found.items() if c.arm == "dense" and r.status != "done"]
    if broken:
        raise runner.RunError(f"the dense net failed: {_last(broken[0])}")
    failed = {c.method or LONGER: _last(r) for c, r in found.items() if r.status != "done"}
    lines, best = [], {}
    for name in [*names, ""]:
        if (name or LONGER) not in failed:
            line = _line(request, name, numbers)
            lines.append(line)
            best[name] = line.lr
    lines = _with_leads(request, lines, numbers)
    dense = _interval(numbers[_dense(request, seed)]["test"] for seed in range(request.seeds))
    comparison = _timed(request, task, best, found) if any(best) else None
    return Compared(
        request, dense, tuple(sorted(lines, key=lambda x: -x.test.mean)), left_out, failed,
        comparison, tuple(found.values()), machine(),
    )  # fmt: skip


def _able(request: Request, task: Task) -> tuple[list[str], dict[str, str]]:
    """Which of the methods can work on this net and budget, and why others cannot.

    Raises:
        ValueError: a method was asked for by name that cannot, or none can.
    """
    every = [n for n, e in contract.METHODS.items() if (e.kind, e.steers) == ("channels", "budget")]
    names = list(dict.fromkeys(request.methods)) or [*every, EVEN]
    net = task.build(seeded(0))
    if request.weights:
        load_weights(net, request.weights)
    graph = trace_groups(net, task.example(1))
    count_macs(net, task.example(1))  # the table will have to
    able, left_out = [], {}
    for name in names:
        one = asked(name)
        try:
            one.refuse(net, graph, task, request.budget)
        except (ValueError, GraphError) as why:
            if request.methods:
                raise
            left_out[name] = str(why)
        else:
            able.append(name)
    if not able:
        raise ValueError(f"no method can work here: {next(iter(left_out.values()))}")
    return able, left_out


def _dense(request: Request, seed: int) -> Cell:
    weights = request.weights
    return Cell(
        "dense", seed, request.spec, request.data,
        fingerprint(request.spec, request.data, weights), str(weights.resolve()) if weights else "",
        request.size, request.train_epochs, request.lr, request.batch,
    )  # fmt: skip


def _tuned(request: Request, name: str, seed: int, lr: float) -> Cell:
    """A method at a rate, or the dense net trained on (no name)."""
    base = replace(_dense(request, seed), epochs=request.tune_epochs, lr=lr)
    if not name:
        return replace(base, arm="longer")
    budget = request.budget
    return replace(base, arm="method", method=name, metric=budget.metric, keep=budget.keep)


def _cells(request: Request, names: Sequence[str]) -> list[Cell]:
    seeds = range(request.seeds)
    cells = [_dense(request, seed) for seed in seeds]
    return cells + [
        _tuned(request, name, seed, lr) for seed in seeds for name in [*names, ""]
        for lr in request.rates
    ]  # fmt: skip


def _run(
    cells: Sequence[Cell],
    out: Path,
    jobs: int | None,
    make_pool: Callable[[int], Executor],
    progress: bool,
) -> dict[Cell, Record]:
    """Every cell's record, those in ``out`` as they are; each new one is written at once."""
    path, code = out / RECORDS, runner.code_digest(SLUG)
    out.mkdir(parents=True, exist_ok=True)
    before = read_records(path) if path.exists() else []
    known = {r.key: r for r in before if r.provenance.get("code") == code and r.status == "done"}
    found = {c: known[key] for c in cells if (key := cell_key(SLUG, c)) in known}
    where = machine()
    with runner.bar(len(cells), "compare", progress) as bar:
        bar.update(len(found))

        def keep(cell: Cell, result: runner.Result) -> None:
            numbers, seconds, error = result
            if cell in found:  # a dense net whose file is gone was trained anew
                return
            found[cell] = Record(
                SLUG, "own", plain(cell), cell.seed, cell_key(SLUG, cell),
                "failed" if numbers is None else "done", numbers or {}, error,
                {**where, "code": code, "seconds": round(seconds, 2), "threads": 1},
            )  # fmt: skip
            others = [r for r in before if r.key not in {x.key for x in found.values()}]
            write_records(path, [*others, *found.values()])
            bar.update()

        runner.execute(
            SLUG, [c for c in cells if c not in found], keep, jobs=jobs, make_pool=make_pool
        )
    return {c: found[c] for c in cells}


def _last(record: Record) -> str:
    return record.error.strip().splitlines()[-1]


def _interval(values: Any) -> Interval:
    return t_interval(list(values))


def _line(request: Request, name: str, numbers: Mapping[Cell, Mapping[str, Any]]) -> Line:
    """A method at the rate with the best mean on validation images."""
    seeds = range(request.seeds)

    def mean(field: str, lr: float) -> float:
        return math.fsum(numbers[_tuned(request, name, s, lr)][field] for s in seeds) / len(seeds)

    lr = max(request.rates, key=lambda rate: mean("val", rate))
    at = [numbers[_tuned(request, name, s, lr)] for s in seeds]
    return Line(
        name, asked(name).label if name else LONGER, lr,
        len(request.rates) > 1 and lr in (request.rates[0], request.rates[-1]),
        _interval(n["test"] for n in at), None, mean("macs", lr), mean("params", lr),
        math.fsum(n.get("seconds", 0.0) for n in at) / len(at),
    )  # fmt: skip


def _with_leads(
    request: Request, lines: Sequence[Line], numbers: Mapping[Cell, Mapping[str, Any]]
) -> list[Line]:
    """The lines with their differences to ℓ1, seed by seed."""
    at = {line.name: line.lr for line in lines}
    if "l1" not in at:
        return list(lines)

    def test(name: str, seed: int) -> float:
        return numbers[_tuned(request, name, seed, at[name])]["test"]

    return [
        line if line.name == "l1" else replace(
            line, lead=_interval(test(line.name, s) - test("l1", s) for s in range(request.seeds))
        )
        for line in lines
    ]  # fmt: skip


def _timed(
    request: Request, task: Task, best: Mapping[str, float], found: Mapping[Cell, Record]
) -> Comparison:
    """Seed 0's nets in turns, the dense one first."""
    del found
    digest = runner.artefact_digest(SLUG)
    example = task.example(1)

    def dense() -> Any:
        return task.build(seeded(0)).eval()

    nets = {"dense": dense()}
    for name, lr in best.items():
        if name:
            folder = artefacts(SLUG, _tuned(request, name, 0, lr), digest) / "net"
            if folder.exists():
                nets[asked(name).label] = load_compressed(folder, dense(), example)
    return compare(nets, task.example(min(8, len(task.test))))
