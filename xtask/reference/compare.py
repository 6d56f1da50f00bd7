"""Ours and the Python YOLOv5 side by side: the same work, in turns, on the same machine.

Prints one table (or JSON) of medians, ratios and goals. Exit code 1 if a goal is missed or a measurement fails, 2 for a wrong call.
docs/benchmarks.md says how to set the Python environment up and what the rows mean.
"""
import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True  # the repository stays as it is

import measure
from measure import Failed, Missing, say

# Our configurations and the files of the original project that describe the same networks.
LIGHT = {
    "yolov5l-ghostnet": "yolov5lGhost.yaml",
    "yolov5l-shufflenetv2": "yolov5lShffule.yaml",
    "yolov5l-mobilenetv3-small": "yolov5lMobilenetv3Small.yaml",
    "yolov5l-efficientlite0": "yolov5lEfficientLite.yaml",
    "yolov5l-pplcnet": "yolov5lPP-LC.yaml",
}
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "onnxruntime")


@dataclass
class Row:
    """One comparison. `ratio` is how many times ours is as fast, or for `list-plugins` the seconds that it takes."""

    name: str
    unit: str
    goal: str
    met: bool
    ratio: float | None
    ours: list[float]
    reference: list[float] = field(default_factory=list)
    note: str = ""
    before: list[float] = field(default_factory=list)

    @classmethod
    def faster(cls, name, unit, samples, goal, note=""):
        """Ours must be `goal` times as fast. Samples of the reference, of ours and perhaps of an earlier program of ours, each the median
        of one turn."""
        reference, ours, *before = samples
        ratio = median(reference) / median(ours)
        return cls(name, unit, f">= {goal:g}x", ratio >= goal, ratio, ours, reference, note, *before)

    @classmethod
    def below(cls, name, unit, samples, goal):
        """Ours must stay below `goal`; the reference has nothing like it."""
        ours, *before = samples
        return cls(name, unit, f"< {goal:g} {unit}", median(ours) < goal, None, ours, [], "", *before)

    def document(self):
        """For JSON: everything, and the medians."""
        samples = {"ours": self.ours, "reference": self.reference, "before": self.before}
        return asdict(self) | {f"{name}_median": median(own) if own else None for name, own in samples.items()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="checkout of ultralytics/yolov5 (tag v7.0)")
    parser.add_argument("--repo2", type=Path, help="checkout of Gumpest/YOLOv5-Multibackbone-Compression, for the light networks")
    parser.add_argument("--yolo", type=Path, required=True, help="our release binary")
    parser.add_argument("--before", type=Path, help="an earlier program of ours, measured in the same turns")
    parser.add_argument("--weights", type=Path, default=Path("../shared/data/weights/yolov5n.pt"), help="Ultralytics checkpoint")
    parser.add_argument("--image", type=Path, default=Path("../shared/data/images/bus.jpg"), help="picture for detect")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bccd/bccd.yaml"), help="data set to train on")
    parser.add_argument("--runs", type=int, default=5, help="turns of every measurement (training: --train-runs)")
    parser.add_argument("--train-runs", type=int, default=3, help="trainings of each side")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a training; the first only warms up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of a forward")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="parts to measure, with commas between (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    for name in ("runs", "train_runs", "threads"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    given.only = given.only.split(",")
    for part in given.only:
        if part not in MEASUREMENTS:
            parser.error(f"--only {part}: there are {', '.join(MEASUREMENTS)}")
    if given.epochs < 2:
        parser.error("--epochs must be at least 2: the first epoch only warms up")
    for name in ("repo", "repo2", "yolo", "before", "weights", "image", "data"):
        path = getattr(given, name)
        if path is not None:
            setattr(given, name, path.resolve())
    if not (given.repo / "detect.py").is_file():
        parser.error(f"--repo {given.repo}: this is no checkout of YOLOv5 (it has no detect.py)")
    if not os.access(given.yolo, os.X_OK):
        parser.error(f"--yolo {given.yolo}: there is no such program; build it with `cargo build --release`")
    if given.before is not None and not os.access(given.before, os.X_OK):
        parser.error(f"--before {given.before}: there is no such program")
    return given


def list_plugins(given, work):
    yield Row.below("list-plugins", "s", measure.list_plugins(given, work), 0.2)


def detect(given, work):
    measure.need(given.weights, given.image)
    yield Row.faster(f"detect {given.image.name}, cold start", "s", measure.detect(given, work), 8)


def sides(times, engine):
    """Samples of a forward: the reference's, ours on this engine, and those of an earlier program."""
    return [times[side] for side in ("reference", engine, f"{engine}-before") if side in times]


def forward(given, work):
    measure.need(given.weights)
    with measure.Reference(given.repo, given.threads) as reference:
        reference.ask("load", name="network", weights=str(given.weights))
        times, note, _ = measure.forward(given, work, reference, given.weights, seconds=4)
    name = f"{given.weights.stem} forward"
    yield Row.faster(f"{name}, torch", "ms", sides(times, "torch"), 1, note)
    yield Row.faster(f"{name}, onnxruntime", "ms", sides(times, "ort"), 1.8, note)


def train(given, work):
    measure.need(given.weights, given.data)
    samples, note = measure.train(given, work)
    for index, what in enumerate(("one epoch", "processor per epoch")):
        yield Row.faster(f"train {given.data.stem}, {what}", "s", [[turn[index] for turn in side] for side in samples], 1, note)


def light(given, work):
    if given.repo2 is None:
        raise Missing("--repo2 was not given (a checkout of Gumpest/YOLOv5-Multibackbone-Compression)")
    classes = measure.classes(given.data)
    with measure.Reference(given.repo2, given.threads) as reference:
        for ours, theirs in LIGHT.items():
            cfg = given.repo2 / "models/lightModels" / theirs
            measure.need(cfg, given.data)
            state, weights = work / f"{ours}-state.safetensors", work / f"{ours}.safetensors"
            reference.ask("build", name="network", cfg=str(cfg), classes=classes, save=str(state))
            measure.seconds([given.yolo, "convert", state, weights, "--cfg", ours, "--nc", str(classes)], work, weights)
            int8 = measure.quantize(given, work, weights)
            # As near to the other times as can be: clocks of processors drift.
            peak = reference.ask("fastest-convolution", seconds=0.5)["gflops_per_second"]
            times, note, gflops = measure.forward(given, work, reference, weights, seconds=8, int8=int8)
            bound = median(times["reference"]) / (1e3 * gflops / peak)
            bound = f"{bound:.2f}x if all {gflops:.1f} GFLOPs ran at the {peak:.0f} GFLOP/s of the fastest dense convolution"
            yield Row.faster(f"{ours} forward, torch", "ms", sides(times, "torch"), 1, note)
            yield Row.faster(f"{ours} forward, onnxruntime", "ms", sides(times, "ort"), 1.5, bound)
            yield Row.faster(f"{ours} forward, onnxruntime int8", "ms", sides(times, "ort-int8"), 1.5)


MEASUREMENTS = {"list": list_plugins, "detect": detect, "forward": forward, "train": train, "light": light}


def machine(given):
    """What the numbers depend on."""
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "-C", given.repo, "describe", "--tags", "--always"], capture_output=True, text=True)
    versions = {"python": platform.python_version(), "yolov5": commit.stdout.strip() or "unknown"}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": given.threads,
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def table(rows):
    """The rows as Markdown, padded so that it also reads as plain text."""
    def spread(samples):
        return f"{median(samples):.3g} ({min(samples):.3g} to {max(samples):.3g})" if samples else ""

    earlier = any(row.before for row in rows)
    cells = [["what", "unit", "ours", "reference", "times as fast", "goal", ""] + ["before", "times as fast as before"] * earlier]
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        cells.append([row.name, row.unit, spread(row.ours), spread(row.reference), ratio, row.goal, "met" if row.met else "MISSED"])
        if earlier:
            # Turn by turn: a slow spell of the machine meets both.
            turns = [before / now for before, now in zip(row.before, row.ours)]
            cells[-1] += [spread(row.before), spread(turns) if turns else ""]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main():
    given = arguments()
    about = machine(given)
    if about["load"] > 0.5:
        say(f"note: this machine is busy (load {about['load']:.1f}); ratios suffer less than times, but they do")
    rows, skipped, failed = [], [], []
    with tempfile.TemporaryDirectory(prefix="yolo-reference-") as folder:
        for part in given.only:
            say(f"== {part}")
            try:
                for row in MEASUREMENTS[part](given, Path(folder)):
                    rows.append(row)
                    say(table([row]).splitlines()[-1] + (f" {row.note}" if row.note else ""))
            except Missing as reason:
                say(f"{part}: skipped: {reason}")
                skipped.append({"name": part, "reason": str(reason)})
            except Failed as error:
                say(f"{part}: failed: {error}")
                failed.append({"name": part, "error": str(error)})
    about["load_after"] = os.getloadavg()[0]
    missed = [row.name for row in rows if not row.met]
    if given.json:
        document = {"machine": about, "rows": [row.document() for row in rows], "skipped": skipped, "failed": failed}
        print(json.dumps(document, indent=1))
    else:
        print(table(rows))
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
        print(f"\n{about['date']}, {about['cpu']}, {about['cores']} cores, forwards on {about['threads']} threads; {versions}")
    for part in skipped:
        say(f"not measured: {part['name']}: {part['reason']}")
    for part in failed:
        say(f"FAILED: {part['name']}: {part['error']}")
    if missed:
        say(f"MISSED {len(missed)} of {len(rows)} goals: " + ", ".join(missed))
    if not rows and not failed:
        say("nothing was measured")
    sys.exit(1 if missed or failed or not rows else 0)


if __name__ == "__main__":
    main()
