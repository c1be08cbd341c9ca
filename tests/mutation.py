"""Does a test fail when a line is wrong? Plausible one-line faults are put in, one at a time.

``make mutate``, or ``python -m tests.mutation --number 40 --only survey_lib/mechanics/costs.py``.
Faults are put into copies of the tree, each is run against the tests that cover its file, and the
share that some test noticed is printed, with every survivor as ``file:line  old → new``. A fault
that changes nothing anyone could see is listed in :data:`EXPLAINED`, with the reason.

Which faults are tried depends on the lines alone: they are ordered by a hash of the file's path,
the line's text and the fault, so another file's change, or more lines above, moves none of them.
"""

import argparse
import ast
import hashlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHERE = ("survey_lib/mechanics", "survey_lib/methods")
MECHANICS, METHODS = "tests/mechanics/test_", "tests/methods/test_"
ENGINE = [f"{MECHANICS}{name}.py" for name in ("graph", "costs", "surgery", "blocks", "gates")]
TESTS: dict[str, list[str]] = {
    **dict.fromkeys(
        [f"mechanics/{n}.py" for n in ("graph", "groups", "grouping", "labels", "proof")]
        + [
            f"mechanics/rules/{n}.py"
            for n in ("__init__", "axes", "call", "elements", "layers", "making", "moves", "pieces",
                      "products", "table", "views")
        ],
        [f"{MECHANICS}{n}.py" for n in ("cases", "kinds_of_nets", "own_rules")] + ENGINE,
    ),
    "mechanics/rules/own.py": [f"{MECHANICS}own_rules.py"],
    "mechanics/counting.py": ["tests/measure/test_macs.py", "tests/measure/test_measure.py"],
    "mechanics/budget.py": [f"{MECHANICS}selection.py", "tests/test_battery.py"],
    "mechanics/costs.py": [f"{MECHANICS}{name}.py" for name in ("costs", "surgery", "blocks")],
    "mechanics/filters.py": [f"{METHODS}channel_baselines.py", f"{METHODS}closer_look.py"],
    "mechanics/gates.py": [
        f"{MECHANICS}gates.py", f"{MECHANICS}statistics.py", f"{METHODS}group_fisher.py",
    ],
    "mechanics/masks.py": [
        f"{MECHANICS}masks.py", f"{MECHANICS}sparse.py", f"{METHODS}to_prune_or_not.py",
        f"{METHODS}loss_modelling.py",
    ],
    "mechanics/surgery.py": [*ENGINE, "tests/measure/test_compare.py"],
    "methods/baselines.py": ["tests/test_battery.py", f"{METHODS}files.py"],
    "methods/compressed.py": [f"{METHODS}files.py", "tests/test_battery.py"],
    "methods/contract.py": ["tests/test_battery.py", f"{METHODS}files.py", "tests/test_api.py"],
    "methods/llm_int8/outliers.py": [f"{METHODS}outliers.py", f"{METHODS}llm_int8.py"],
    "methods/llm_int8/planting.py": [f"{METHODS}planting.py", f"{METHODS}llm_int8.py"],
    "methods/own_model.py": [f"{METHODS}own_model.py", f"{METHODS}damaged_files.py"],
    "methods/sharing.py": [
        f"{METHODS}sharing.py",
        f"{METHODS}group_fisher.py", f"{METHODS}closer_look.py", f"{METHODS}thinet.py",
        "tests/test_battery.py",
    ],
}  # fmt: skip
"""Tests that cover a file, those likelier to notice first. Others: by name, then the battery."""

EXPLAINED: dict[tuple[str, str, str], str] = {
    ("survey_lib/mechanics/rules/moves.py", "n = numbers([times])[0]", "n = numbers([times])[-1]"):
        "the list has one entry",
    ("survey_lib/mechanics/grouping.py",
     "if g >= 0 and (here == g).all():  # as nearly always: one group, its units in order",
     "if g >= 0 and (here != g).all():  # as nearly always: one group, its units in order"):
        "the general way below comes to the same, in more time",
    ("survey_lib/methods/group_fisher/method.py",
     "most = max(1, most_removals(costs, least(graph, config.coupled), target))",
     "most = max(0, most_removals(costs, least(graph, config.coupled), target))"):
        "where no unit has to go, the pace of the removals is never asked for",
    ("survey_lib/mechanics/rules/moves.py",
     "times = tuple(times[0]) if len(times) == 1 and isinstance(times[0], (tuple, list)) else "
     "times",
     "times = tuple(times[0]) if len(times) == 1 and isinstance(times[-1], (tuple, list)) else "
     "times"):
        "of one entry the first is the last",
    ("survey_lib/mechanics/rules/views.py",
     "elif not (isinstance(s, int) and plain[axis] == -1):",
     "elif not (isinstance(s, int) and plain[axis] == -2):"):
        "a size of -1 that is looked at says nothing either",
    ("survey_lib/mechanics/rules/views.py",
     "spec = [-1] * at + list(sizes) + [-1] * (x.ndim - at - 1)",
     "spec = [-1] * at + list(sizes) + [-1] * (x.ndim - at + 1)"):
        "a size of -1 for an axis that isn't there says nothing",
    ("survey_lib/mechanics/rules/axes.py",
     "result = call.func(shapes_only(x), plain, *call.args[2:], **named)",
     "result = call.func(shapes_only(x), plain, *call.args[3:], **named)"):
        "F.pad hands mode and value on by name, however it was called",
    ("survey_lib/mechanics/relevance/tape.py",
     "names = {id(m): path for path, m in model.named_modules(remove_duplicate=False)}",
     "names = {id(m): path for path, m in model.named_modules(remove_duplicate=True)}"):
        "a module that has two names is called by one of them either way",
    ("survey_lib/mechanics/relevance/tape.py",
     'if bare[0] in "ir" and bare[1:] in arithmetic:',
     'if bare[1] in "ir" and bare[1:] in arithmetic:'):
        "torch names += add_, and of rsub both ways come to the same",
    ("survey_lib/methods/own_model.py",
     'files.write_atomic(out / "report.json", json.dumps(report, indent=1) + "\\n")',
     'files.write_atomic(out / "report.json", json.dumps(report, indent=2) + "\\n")'):
        "white space of a file that programs read",
    ("survey_lib/methods/own_model.py",
     'example = torch.zeros(1, shape["channels"], shape["size"], shape["size"])',
     'example = torch.ones(1, shape["channels"], shape["size"], shape["size"])'):
        "of the example that a net is loaded with only the shape is looked at",
    ("survey_lib/mechanics/rules/moves.py",
     "if fancy and not any(is_meta(i) for i in plain if isinstance(i, Tensor)):",
     "if fancy and not all(is_meta(i) for i in plain if isinstance(i, Tensor)):"):
        "of an index that is known in part the values do not show in the shape",
    ("survey_lib/mechanics/grouping.py",
     'wide = max((s.positions.shape[1] for s in found_slices[g] if s.role != "in"), default=1)',
     'wide = max((s.positions.shape[1] for s in found_slices[g] if s.role != "in"), default=2)'):
        "a group's first axis is that of what makes it, so the default is not asked for",
    ("survey_lib/methods/adaptive_activation/config.py", "images: int = 512", "images: int = 513"):
        "a number that was chosen, and no rule",
    ("survey_lib/methods/adaptive_activation/training.py", "each: int = 0", "each: int = -1"):
        "where nothing is trained, the steps of a round are not looked at",
    ("survey_lib/methods/adaptive_activation/training.py", "whole: int = 0", "whole: int = -1"):
        "where nothing is trained, there is no total that they are taken from",
    ("survey_lib/methods/adaptive_activation/method.py",
     "graph = trace_groups(model, task.example(1).to(next(model.parameters()).device))",
     "graph = trace_groups(model, task.example(2).to(next(model.parameters()).device))"):
        "the groups do not depend on the number of examples",
    ("survey_lib/methods/what_matters_llm/measures.py",
     "total = total.to(w.device) + rows[at].sum(1)",
     "total = total.to(w.device) - rows[at].sum(1)"):
        "of the sum the absolute value is taken",
    ("survey_lib/mechanics/rules/views.py",
     "out = np.ascontiguousarray(moved[:, 0])", "out = np.ascontiguousarray(moved[:, -1])"):
        "the labels of a row are the same, or tied a line above",
}  # fmt: skip
"""(file, line as it is, line as it would be) → why no test could notice."""

NEVER = "not slow and not site and not colab"


@dataclass(frozen=True)
class Fault:
    """One line, wrong in one way."""

    file: str
    """Path from the root of the tree."""
    line: int
    start: int
    """Offset of the piece that is replaced, in characters of the file."""
    end: int
    new: str
    kind: str

    def put_into(self, text: str) -> str:
        """The file's text with the fault."""
        return text[: self.start] + self.new + text[self.end :]

    def lines(self, text: str) -> tuple[str, str]:
        """The line as it is, and as it would be."""
        wrong = self.put_into(text)
        return text.splitlines()[self.line - 1].strip(), wrong.splitlines()[self.line - 1].strip()


COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
}
NAMES = {
    "min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax",
    "argmax": "argmin", "minimum": "maximum", "maximum": "minimum", "sum": "mean", "mean": "sum",
    "any": "all", "all": "any", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}  # fmt: skip
BUILTIN = {"min", "max", "any", "all"}  # of these alone the twin is a builtin too
AXES = {"dim", "axis"}
CHECKS = {"strict", "repr", "device"}
"""Named arguments that make no number: they check, print, or name the only device there is."""


class _Finder(ast.NodeVisitor):
    """Collects the faults of one file. What is only said (messages, types) is passed over."""

    def __init__(self, file: str, text: str):
        self.file, self.text = file, text
        self.found: list[Fault] = []
        # where each line starts; columns of ast count bytes
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        inside = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(inside)

    def span(self, node: ast.expr | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.offset(node.lineno, node.col_offset),
            self.offset(node.end_lineno, node.end_col_offset),
        )

    def add(self, start: int, end: int, new: str, kind: str) -> None:
        line = self.text.count("\n", 0, start) + 1
        self.found.append(Fault(self.file, line, start, end, new, kind))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str) -> None:
        """Replace an operator, which ast gives no place, between its operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.text[start:end]
        if "#" not in gap and gap.count(old) == 1:
            at = start + gap.index(old)
            self.add(at, at + len(old), new, kind)

    # Not looked into: messages, types, defaults of command lines and the like.

    def visit_Raise(self, node: ast.Raise) -> None: ...

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        for child in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if child is not None:
                self.visit(child)

    # Faults.

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, operands, operands[1:], strict=False):
            old, others = COMPARISONS[type(op)]
            for new in others:
                self.between(left, right, old, new, "comparison")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not isinstance(node.left, (ast.List, ast.JoinedStr)):
            old, new = ARITHMETIC[type(node.op)]
            self.between(node.left, node.right, old, new, "arithmetic")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.between(node.target, node.value, f"{old}=", f"{new}=", "arithmetic")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, end = self.span(node)[0], self.span(node.operand)[0]
        if isinstance(node.op, ast.Not):
            self.add(start, end, "", "not removed")
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self.add(start, end, "", "sign removed")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is bool:
            self.add(*self.span(node), str(not node.value), "constant")
        elif type(node.value) is int:
            for step in (1, -1):
                self.add(*self.span(node), str(node.value + step), "constant")

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in CHECKS:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.rename(node.func)
        for keyword in node.keywords:
            # an axis that is a number is changed instead
            axis = keyword.arg in AXES and isinstance(keyword.value, ast.Constant)
            if keyword.arg is not None and keyword.arg not in CHECKS and not axis:
                self.drop(node, keyword)
        self.generic_visit(node)

    def rename(self, func: ast.expr) -> None:
        if isinstance(func, ast.Name) and func.id in NAMES and func.id in BUILTIN:
            self.add(*self.span(func), NAMES[func.id], "renamed")
        elif isinstance(func, ast.Attribute) and func.attr in NAMES:
            end = self.span(func)[1]
            self.add(end - len(func.attr), end, NAMES[func.attr], "renamed")

    def drop(self, node: ast.Call, keyword: ast.keyword) -> None:
        """Leave out a named argument, and the comma behind or before it."""
        start, end = self.span(keyword)
        behind = self.text[end:].lstrip()
        if behind.startswith(","):
            end = self.text.index(",", end) + 1
        elif len(node.args) + len(node.keywords) > 1:
            start = self.text.rindex(",", 0, start)
        if "\n" not in self.text[start:end]:
            self.add(start, end, "", "argument dropped")


def faults_of(file: Path) -> list[Fault]:
    """All faults of a file that are still Python and change something."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    finder = _Finder(file.relative_to(ROOT).as_posix(), text)
    finder.visit(tree)
    same = ast.dump(tree)
    return [f for f in finder.found if (new := _dump(f.put_into(text))) and new != same]


def _dump(text: str) -> str:
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return ""


def in_order(faults: Sequence[Fault], texts: dict[str, str]) -> list[Fault]:
    """As if shuffled, but by what each fault is and not by where."""

    def key(fault: Fault) -> bytes:
        old, new = fault.lines(texts[fault.file])
        said = f"{fault.file}|{old}|{new}|{fault.kind}"
        return hashlib.sha256(said.encode()).digest()

    return sorted(faults, key=key)


def covering(file: str) -> list[str]:
    """The tests that a fault in a file is run against, in that order."""
    inside = file.removeprefix("survey_lib/")
    listed = TESTS.get(inside)
    if listed is None:
        room, name = inside.split("/")[:2]
        name = name.removesuffix(".py")
        listed = [f"tests/{room}/test_{name}.py"]
        if room == "methods":
            listed += [f"tests/experiments/test_{name}.py", "tests/test_battery.py"]
    found = [t for t in listed if (ROOT / t).exists()]
    if not found:
        raise SystemExit(f"{file}: no tests are known to cover it; name them in tests/mutation.py")
    return found


# Running.


def copy_of_tree(to: Path) -> Path:
    """Everything git knows or would know, without what is built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def environment(tree: Path) -> dict[str, str]:
    """The copy's own code on the path, nothing compiled kept, one thread."""
    return {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def noticed(tree: Path, tests: Sequence[str], seconds: float) -> tuple[str, float]:
    """A run of the tests: the first failure, or nothing if all pass; processor seconds it took.

    It may take ``seconds`` of the processor's time, which is the same on a busy machine, and a wait
    for nothing ends after an hour.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", NEVER]
    limit = f'ulimit -t {seconds:.0f} && exec "$@"'
    try:
        done = subprocess.run(
            ["bash", "-c", f"({limit}); s=$?; times >&2; exit $s", "bash", *command, *tests],
            cwd=tree, env=environment(tree), capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "an hour", 3600.0
    took = spent(done.stderr)
    if done.returncode == 0:
        return "", took
    if done.returncode == 128 + signal.SIGKILL or took >= seconds:
        return f"more than {seconds:.0f} s", took
    said = [t for t in done.stdout.splitlines() if t.startswith(("FAILED", "ERROR"))]
    return (
        said[0][:160] if said else f"pytest ended with {done.returncode}: {done.stderr[-300:]}"
    ), took


def spent(said: str) -> float:
    """Processor seconds of the commands that bash has run, as its ``times`` says them last."""
    parts = re.findall(r"(\d+)m([\d.]+)s", said.splitlines()[-1])
    return sum(60 * int(m) + float(s) for m, s in parts)


def run(faults: Sequence[Fault], texts: dict[str, str], jobs: int) -> Iterator[tuple[Fault, str]]:
    """Each fault with what noticed it; an empty text if nothing did."""
    with tempfile.TemporaryDirectory() as folder:
        trees: queue.Queue[Path] = queue.Queue()
        for i in range(jobs):
            trees.put(copy_of_tree(Path(folder) / str(i)))
        first = trees.queue[0]
        where = subprocess.run(
            [sys.executable, "-c", "import survey_lib; print(survey_lib.__file__)"],
            cwd=first, env=environment(first), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        if not where.startswith(str(first)):
            raise SystemExit(f"the copy's tests would import {where.strip()}")

        def alone(test: str) -> float:
            """Processor seconds of a file of tests without any fault."""
            tree = trees.get()
            failure, took = noticed(tree, [test], 1800)
            trees.put(tree)
            if failure:
                raise SystemExit(f"without any fault: {failure}")
            return took

        files = list(dict.fromkeys(t for f in faults for t in covering(f.file)))
        with ThreadPoolExecutor(jobs) as pool:
            cost = dict(zip(files, pool.map(alone, files), strict=True))

        def one(fault: Fault) -> tuple[Fault, str]:
            tree, tests = trees.get(), tuple(covering(fault.file))
            file = tree / fault.file
            try:
                file.write_text(fault.put_into(texts[fault.file]), encoding="utf-8")
                return fault, noticed(tree, tests, 30 + 3 * sum(cost[t] for t in tests))[0]
            finally:
                file.write_text(texts[fault.file], encoding="utf-8")
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, faults)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.mutation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--number", type=int, default=200, help="faults tried (200)")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many")
    parser.add_argument("--only", default="", help="files whose path begins so")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (2)")
    parser.add_argument("--least", type=float, default=0.95, help="share to be noticed (0.95)")
    parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
    asked = parser.parse_args()
    files = sorted(p for where in WHERE for p in (ROOT / where).rglob("*.py"))
    files = [p for p in files if p.relative_to(ROOT).as_posix().startswith(asked.only)]
    texts = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}
    every = in_order([f for p in files for f in faults_of(p)], texts)
    faults = every[asked.skip : asked.skip + asked.number]
    print(f"{len(faults)} of {len(every)} faults in {len(files)} files", flush=True)
    if asked.list:
        for fault in faults:
            print(_line(fault, texts))
        return 0
    survivors, explained = [], 0
    for fault, by in run(faults, texts, asked.jobs):
        why = EXPLAINED.get((fault.file, *fault.lines(texts[fault.file])), "")
        print(f"{by or ('nobody could: ' + why if why else 'SURVIVED')}  {_line(fault, texts)}",
              flush=True)  # fmt: skip
        if not by and why:
            explained += 1
        elif not by:
            survivors.append(fault)
    counted = len(faults) - explained
    share = 1 - len(survivors) / max(1, counted)
    print(f"\n{counted - len(survivors)} of {counted} faults were noticed: {share:.1%}"
          f" ({explained} more change nothing)")  # fmt: skip
    for fault in survivors:
        print(f"  {_line(fault, texts)}")
    return 0 if share >= asked.least else 1


def _line(fault: Fault, texts: dict[str, str]) -> str:
    old, new = fault.lines(texts[fault.file])
    return f"{fault.file}:{fault.line}  {old}  →  {new}"


if __name__ == "__main__":
    sys.exit(main())
