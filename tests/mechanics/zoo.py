"""The zoo: nets that people really have, each judged, torch-pruning beside.

``python -m tests.mechanics.zoo`` runs every net in a process of its own, two at a time, with a
limit of time and of memory, and writes ``results/zoo.json``, from which README and the page on the
engine are made. ``--only WORD`` runs the nets whose name holds the word and keeps the other rows.

timm's nets come in two lists. ``NAMED`` was given from outside: one net a family. ``DRAWN`` was
drawn before the engine could follow any of them, and is not changed for what comes out: of timm
1.0.31, take the modules (``timm.list_models`` by module, in alphabetical order) that hold none of
``NAMED``, 64 of them; take number ⌊64 i / 30⌋ for i = 0 … 29; of each the net with the fewest
parameters, the first by name among equals.
"""

import argparse
import copy
import json
import multiprocessing
import resource
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib import files
from survey_lib.evidence.records import commit, machine
from survey_lib.tasks.models import build_model
from tests.mechanics.judge import EXACT, TOLERANCE, contents, distance, first_line, judge
from tests.oracles.channels import Zeroing, scrambled, tensors

NAMED = (
    "resnet18", "resnet26d", "resnetblur18", "seresnet18", "skresnet18", "ecaresnet26t",
    "res2net50_14w_8s", "resnest14d", "cspresnet50", "darknet17", "vovnet39a",
    "hrnet_w18_small", "dla34", "rexnet_100", "mobilenetv3_small_050", "tf_efficientnet_lite0",
    "efficientnet_b0", "mixnet_s", "ghostnet_050", "lcnet_050", "fbnetc_100", "spnasnet_100",
    "semnasnet_050", "regnetx_002", "regnety_002", "repvgg_a0", "convnext_atto",
    "convnextv2_atto", "dpn48b", "xception41", "inception_v3", "inception_v4", "nf_resnet26",
    "nfnet_l0", "tresnet_m", "selecsls42", "vgg11", "edgenext_xx_small", "mobilevit_xxs",
    "mobileone_s0", "fastvit_t8", "poolformer_s12", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224",
    "coatnet_nano_rw_224", "ese_vovnet19b_dw", "hardcorenas_a", "densenet121",
)  # fmt: skip
DRAWN = (
    "beit_base_patch16_224", "cait_xxs24_224", "convit_tiny", "cpubone_nano", "csatv2",
    "davit_tiny", "efficientformer_l1", "efficientvim_m1", "vit_tiny_patch16_dinov3_qkvb",
    "focalnet_tiny_srf", "gemma4_vit_167m", "hiera_tiny_224", "iformer_t",
    "inception_resnet_v2", "levit_128s", "mobilenetv5_base",
    "naflexvit_base_patch16_parfac_gap", "nest_tiny", "pit_ti_224", "pvt_v2_b0", "rdnet_tiny",
    "repvit_m1", "legacy_seresnet18", "starnet_s050", "swinv2_tiny_window16_256",
    "tiny_vit_5m_224", "twins_svt_small", "vit_tiny_r_s16_p8_224", "samvit_base_patch16_224",
    "volo_d1_224",
)  # fmt: skip
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s",
    "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vgg16_bn", "vit_b_16",
    "wide_resnet50_2",
)  # fmt: skip
PROJECT: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"width": 0.1}),
    "cnn_small": ("cnn_small", {"width": 0.25}),
    "cnn_small without norm": ("cnn_small", {"width": 0.25, "bn": False}),
    "vgg_small": ("vgg_small", {"width": 0.5}),
    "vgg_small fc": ("vgg_small", {"width": 0.5, "head": "fc", "bn": False}),
    "resnet_small": ("resnet_small", {"width": 0.5, "blocks": 2}),
    "resnet_small grouped": ("resnet_small", {"groups": 4}),
    "densenet_small": ("densenet_small", {"width": 0.5}),
    "densenet_small bottleneck": ("densenet_small", {"width": 0.5, "bottleneck": 2}),
    "mobilenet_small": ("mobilenet_small", {"width": 0.5}),
    "char_gpt": ("char_gpt", {"width": 0.25}),
}
LISTS = {
    "named": [f"timm:{n}" for n in NAMED],
    "drawn": [f"timm:{n}" for n in DRAWN],
    "torchvision": [f"torchvision:{n}" for n in TORCHVISION],
    "project": [f"project:{n}" for n in PROJECT],
}
CLASSES = 11  # no layer inside has as many channels by chance
OPTIONS = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "vit_b_16": {"image_size": 64},
}
SIZE = 64
BATCH = 2
SECONDS = 900
SEEDS = 0  # a recipe at random is part of the second round, on the net that is pruned already
GIGABYTES = 14
AT_ONCE = 2
OUT = "zoo.json"


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A net of the zoo with fixed weights, and a batch that it takes.

    Images are 64 × 64 where the net takes them, else of the net's own size.
    """
    library, _, which = name.partition(":")
    g = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        if library == "project":
            model, options = PROJECT[which]
            if model == "char_gpt":
                net = build_model(model, generator=g, **options)
                return net, torch.randint(65, (BATCH, 12), generator=g)
            net = build_model(model, generator=g, classes=CLASSES, **options)
            return net, torch.randn(BATCH, 1, 28, 28, generator=g)
        if library == "torchvision":
            from torchvision import models

            options = {"num_classes": CLASSES} | OPTIONS.get(which, {})
            return getattr(models, which)(weights=None, **options), images(SIZE, g)
        import timm

        net = timm.create_model(which, pretrained=False, num_classes=CLASSES).eval()
        return net, images(SIZE if takes(net, SIZE) else net.pretrained_cfg["input_size"][-1], g)


def images(size: int, g: torch.Generator) -> Tensor:
    return torch.randn(BATCH, 3, size, size, generator=g)


@torch.no_grad()
def takes(net: nn.Module, size: int) -> bool:
    """Whether a net runs on images of a size."""
    try:
        net(torch.zeros(1, 3, size, size))
    except Exception:
        return False
    return True


# One net, in a process of its own.


def ours(name: str) -> dict[str, Any]:
    """The judge's verdict on a net."""
    model, x = build(name)
    dense = sum(p.numel() for p in model.parameters())
    found = asdict(judge(model, x, seeds=SEEDS))
    shape = list(x.shape[1:])
    return {"input": shape, "params": dense, **found}


def theirs(name: str) -> dict[str, Any]:
    """torch-pruning on the same net: half of every group, at random, nothing told but the head.

    Its net is compared with the dense one in which what it removed from the inputs of layers is
    multiplied by 0 there, as ours is.
    """
    import torch_pruning as tp

    model, x = build(name)
    scrambled(model)
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        reference = tensors(model(x))
    dense = copy.deepcopy(model)
    before = contents(model)
    names = {id(m): path for path, m in model.named_modules()}
    alive: dict[str, list[int]] = {}
    readers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    answers = reference[0].shape[-1]  # logits; the last layer is not to be pruned
    head = [m for m in model.modules() if isinstance(m, readers) and answers == len(m.weight)]
    torch.manual_seed(0)
    stage = "finding groups"
    try:
        pruner = tp.pruner.BasePruner(
            model, x, importance=tp.importance.RandomImportance(), pruning_ratio=0.5,
            ignored_layers=head,
        )  # fmt: skip
        stage = "removing"
        for group in pruner.step(interactive=True):
            leaving: dict[str, set[int]] = {}
            for dep, idxs in group:
                module = dep.target.module
                reads = dep.handler.__name__ == "prune_in_channels"
                if isinstance(module, readers) and reads and id(module) in names:
                    leaving.setdefault(names[id(module)], set()).update(map(int, idxs))
            group.prune()
            for path, gone in leaving.items():
                layer = dense.get_submodule(path)
                n = getattr(layer, "in_features", 0) or layer.in_channels
                left = alive.setdefault(path, list(range(n)))
                alive[path] = [p for i, p in enumerate(left) if i not in gone]
        stage = "running the pruned net"
        with torch.no_grad():
            got = tensors(model.eval()(x))
    except MemoryError:
        return {"word": "no answer", "reason": f"{stage}: more than {GIGABYTES} GB"}
    except Exception as error:
        changed = before != contents(model)
        word = "crashes after changing the net" if changed else "crashes"
        return {"word": word, "reason": f"{stage}: {first_line(error)}"}
    if before == contents(model):
        return {"word": "nothing pruned", "reason": ""}
    gone = {}
    for path, left in alive.items():
        layer = dense.get_submodule(path)
        n = getattr(layer, "in_features", 0) or layer.in_channels
        transposed = isinstance(layer, nn.ConvTranspose2d)
        missing = sorted(set(range(n)) - set(left))
        gone[id(layer.weight)] = (layer.weight, 0 if transposed else 1, missing)
    with torch.no_grad(), Zeroing(gone, of_weight=False):
        want = tensors(dense(x))
    if [t.shape for t in got] != [t.shape for t in want]:
        return {"word": "wrong", "reason": "the pruned net's output has another shape"}
    scale = max(t.abs().max().item() for t in reference)
    error = distance(got, want) / max(distance(got, reference), 1e-6 * scale)
    if error < TOLERANCE:
        return {"word": EXACT, "error": error, "reason": ""}
    return {"word": "wrong", "error": error, "reason": "the pruned net says something else"}


# All nets.


def results(jobs: Iterable[tuple[str, str]], at_once: int) -> Iterator[tuple[str, str, dict]]:
    """(net, side) → its result, each from a process of its own with limits, a few at a time."""
    import timm  # noqa: F401 — once, here: processes are copies of this one
    import torch_pruning  # noqa: F401

    fork, waiting = multiprocessing.get_context("fork"), list(jobs)
    running: dict[Connection, tuple[str, str, BaseProcess, float]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name, side = waiting.pop(0)
            receive, send = fork.Pipe(duplex=False)
            process = fork.Process(target=_work, args=(name, side, send))
            process.start()
            send.close()
            running[receive] = name, side, process, perf_counter()
        ready = wait(list(running), timeout=1)
        for receive, (name, side, process, start) in list(running.items()):
            seconds = perf_counter() - start
            if receive in ready:
                try:
                    found = receive.recv() | {"seconds": round(seconds, 1)}
                except EOFError:  # killed, by the limit of memory as a rule
                    process.join()
                    found = {"word": "no answer", "reason": f"exit status {process.exitcode}"}
            elif seconds > SECONDS:
                process.kill()
                found = {"word": "no answer", "reason": f"not done in {SECONDS} s"}
            else:
                continue
            process.join()
            del running[receive]
            yield name, side, found


def _work(name: str, side: str, send: Connection) -> None:
    """One side of one net, in its own process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    try:
        found = (theirs if side == "torch-pruning" else ours)(name)
    except Exception as error:
        found = {"word": "no answer", "reason": first_line(error)}
    send.send(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="judge the engine on the zoo")
    parser.add_argument("--only", default="", help="nets, or lists, whose name holds this word")
    parser.add_argument("--side", choices=("ours", "torch-pruning"), help="one side only")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="processes at a time")
    parser.add_argument("--out", default=str(files.results_dir() / OUT))
    given = parser.parse_args()
    sides = [given.side] if given.side else ["ours", "torch-pruning"]
    path = files.Path(given.out)
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    known = {row["net"]: row for row in old}
    order = [n for names in LISTS.values() for n in names]
    versions = {n: version(n) for n in ("torch", "torchvision", "timm", "torch-pruning")}
    about = {"commit": commit(), **machine(), "versions": versions}
    torch.set_num_threads(1)
    lists = {n: kind for kind, names in LISTS.items() for n in names}
    wanted = [n for n, kind in lists.items() if given.only in f"{kind} {n}"]
    for name, side, found in results([(n, s) for n in wanted for s in sides], given.at_once):
        print(f"{name} · {side}: {found['word']} {found.get('reason', '')}"[:300], flush=True)
        known.setdefault(name, {"net": name, "list": lists[name]})[side] = found
        about["made"] = datetime.now(UTC).isoformat(timespec="seconds")
        about["rows"] = [known[n] for n in order if n in known]
        files.write_atomic(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
