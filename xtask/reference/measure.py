"""The measurements of compare.py: who runs what, in turns."""
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

DRIVER = Path(__file__).with_name("driver.py")

class Missing(Exception):
    """Something that a measurement needs is not there."""


class Failed(Exception):
    """A measurement went wrong."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(*paths):
    for path in paths:
        if not path.exists():
            raise Missing(f"{path} is not there")


def environment(work):
    """The user's environment; what the reference would write about itself goes to `work`."""
    settings = work / "settings"
    if not settings.exists():
        settings.mkdir()
        # The font that the reference would fetch: any font does, nothing is drawn with it that counts.
        import matplotlib

        shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", settings / "Arial.ttf")
    return os.environ | {
        "YOLOV5_CONFIG_DIR": str(settings),
        "YOLO_CONFIG_DIR": str(settings),
        "YOLOv5_AUTOINSTALL": "false",
        "MPLBACKEND": "agg",
        "WANDB_MODE": "disabled",
    }


def driver(repo, *arguments):
    return [sys.executable, str(DRIVER), str(repo), *map(str, arguments)]


def seconds(command, work, expect=None):
    """Wall time of a command, started anew; `expect` is a file that it must have written."""
    if expect is not None and expect.exists():
        expect.unlink()
    began = time.perf_counter()
    done = subprocess.run(command, cwd=work, env=environment(work), capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise Failed(f"`{' '.join(map(str, command))}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    if expect is not None and not expect.is_file():
        raise Failed(f"`{' '.join(map(str, command))}` wrote no {expect.name}:\n{done.stderr[-2000:]}")
    return took


def in_turns(turns, *sides):
    """Calls every side once per turn, every other turn the other way round, so that a slow spell of the machine meets all."""
    taken = [[] for _ in sides]
    for turn in range(turns):
        order = list(enumerate(sides))
        for index, side in order if turn % 2 == 0 else reversed(order):
            taken[index].append(side())
    return taken


def programs(given):
    """Our program, and an earlier one of ours if that is given."""
    return [given.yolo] if given.before is None else [given.yolo, given.before]


def list_plugins(given, work):
    """Per program of ours."""
    sides = [lambda yolo=yolo: seconds([yolo, "list-plugins"], work) for yolo in programs(given)]
    for side in sides:
        side()
    return in_turns(given.runs, *sides)


def detect(given, work):
    """Seconds from the start of the process to its end; all write the picture with boxes and labels. The reference's, then ours."""
    picture = given.image.name

    def ours(yolo):
        return [yolo, "detect", "--weights", given.weights, "--source", given.image, "--save-dir", work / "ours"]

    theirs = driver(
        given.repo, "detect", "--weights", given.weights, "--source", given.image, "--device", "cpu",
        "--project", work, "--name", "theirs", "--exist-ok",
    )  # fmt: skip
    sides = [lambda: seconds(theirs, work, work / "theirs" / picture)]
    sides += [lambda yolo=yolo: seconds(ours(yolo), work, work / "ours" / picture) for yolo in programs(given)]
    # The first call reads the files from the disk and compiles the Python modules.
    for side in sides:
        side()
    return in_turns(given.runs, *sides)


class Reference:
    """A process of the reference that holds networks and times them on request; it sleeps in between."""

    def __init__(self, repo, threads):
        self.repo, self.threads = repo, threads

    def __enter__(self):
        # Started in a folder of its own choice: the checkout stays as it is.
        self.process = subprocess.Popen(
            driver(self.repo, "serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"YOLOv5_AUTOINSTALL": "false", "YOLOv5_VERBOSE": "false", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        self.ask("threads", threads=self.threads)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, do, **values):
        self.process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.repo}: its process ended; try `{' '.join(driver(self.repo, 'serve'))}` by hand")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(f"{self.repo}: {reply['error']}")
        return reply


def same_function(given, work, reference, weights):
    """Fails unless our network computes what the reference's does. The yardstick is the error that the reference's own single
    precision has against double precision: another order of sums may make several times of it, another network makes far more."""
    image, output = work / "input.safetensors", work / "output.safetensors"
    reference.ask("input", size=320, path=str(image))
    seconds([given.yolo, "forward", "--weights", weights, "--input", image, "--output", output], work, output)
    errors = reference.ask("differences", name="network", size=320, path=str(output))
    if not errors["ours"] <= 10 * errors["reference"]:
        raise Failed(f"{weights.name}: ours computes something else (error {errors['ours']:.2g}, the reference's {errors['reference']:.2g})")
    return f"error of the outputs {errors['ours']:.0e}, the reference's {errors['reference']:.0e}"


def forward(given, work, reference, weights, seconds, int8=None):
    """Milliseconds of a forward of one image at 640 with decoded boxes: medians per turn, by engine. `ort-int8` runs the checkpoint
    `int8` on onnxruntime, `torch-before` and `ort-before` are an earlier program of ours. Also billions of operations of our float network."""
    note = same_function(given, work, reference, weights)
    gflops = {}

    def theirs():
        return median(reference.ask("time", name="network", size=640, warm_up=3, runs=5, seconds=seconds)["ms"])

    def ours(engine, weights=weights, yolo=given.yolo):
        command = [
            yolo, "bench", "--weights", weights, "--engine", engine, "--img", "640", "--threads", given.threads, "--json",
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"`{' '.join(map(str, command))}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        rows = [row for row in json.loads(done.stdout)["rows"] if row["engine"] == engine]
        if len(rows) != 1 or rows[0]["threads"] != given.threads:
            raise Failed(f"`yolo bench` answered {done.stdout}")
        gflops[weights] = rows[0]["gflops"]
        return rows[0]["ms_median"]

    sides = {"torch": lambda: ours("torch"), "reference": theirs, "ort": lambda: ours("ort")}
    if int8 is not None:
        sides["ort-int8"] = lambda: ours("ort", int8)
    if given.before is not None:
        sides |= {f"{engine}-before": lambda engine=engine: ours(engine, yolo=given.before) for engine in ("torch", "ort")}
    taken = in_turns(given.runs, *sides.values())
    return dict(zip(sides, taken)), note, gflops[weights]


def quantize(given, work, weights):
    """Our int8 form of a checkpoint for onnxruntime."""
    folder = work / f"{weights.stem}-int8"
    quantized = folder / "quantized.safetensors"
    command = [
        given.yolo, "quantize", "--weights", weights, "--data", given.data, "--backend", "onnxruntime", "--img", "640",
        "--calib-batches", "1", "--batch-size", "4", "--out", folder,
    ]  # fmt: skip
    seconds(command, work, quantized)
    return quantized


def classes(data):
    """Number of classes of a data set."""
    import yaml

    return len(yaml.safe_load(data.read_text())["names"])


def mirror(data, work):
    """The data set as links, so that the caches of labels are not written beside the user's files; returns its YAML."""
    import yaml

    settings = yaml.safe_load(data.read_text())
    root = (data.parent / (settings.get("path") or ".")).resolve()
    copy = work / "data"
    for entry in root.iterdir():
        target = copy / entry.name
        if entry.is_dir():
            target.mkdir(parents=True)
            for inner in entry.iterdir():
                (target / inner.name).symlink_to(inner)
        else:
            copy.mkdir(exist_ok=True)
            target.symlink_to(entry)
    file = work / "data.yaml"
    file.write_text(yaml.safe_dump(settings | {"path": str(copy)}))
    return file


def epochs(command, work, is_end):
    """Seconds between the ends of epochs: training, validation and checkpoint; the first epoch, with the start-up, is left out.
    Also returns the lines of output."""
    lines, ends = [], []
    with subprocess.Popen(
        list(map(str, command)), cwd=work, env=environment(work), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:
            if is_end(line):
                ends.append(time.perf_counter())
            lines.append(line)
    if process.returncode != 0:
        raise Failed(f"`{' '.join(map(str, command))}` ended with code {process.returncode}:\n{''.join(lines[-20:])}")
    return [after - before for before, after in zip(ends, ends[1:])], lines


def processor():
    """Seconds of processor that all ended processes have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(given, work):
    """Seconds of one epoch at 320 pixels and batch 16 with the default hyper-parameters, and seconds of processor per epoch of the whole
    training, which other work on the machine changes less: the reference's, then ours."""
    data, workers = mirror(given.data, work), min(len(os.sched_getaffinity(0)), 8)
    common = [
        "--data", data, "--weights", given.weights, "--img", "320", "--batch-size", "16", "--epochs", given.epochs,
        "--workers", workers, "--noplots", "--exist-ok", "--project", work / "train", "--name",
    ]  # fmt: skip
    threads = set()

    def checked(command, is_end):
        before = processor()
        taken, lines = epochs(command, work, is_end)
        busy = (processor() - before) / given.epochs
        if len(taken) != given.epochs - 1:
            raise Failed(f"`{' '.join(map(str, command))}` told of {len(taken) + 1} epochs, not {given.epochs}:\n{''.join(lines[-20:])}")
        threads.update(line.split()[1] for line in lines if line.startswith("threads "))
        say(f"  {Path(str(command[0])).name}: " + " ".join(f"{s:.1f} s" for s in taken) + f", {busy:.1f} s of processor")
        return median(taken), busy

    def ours(yolo):
        shutil.rmtree(work / "train/ours", ignore_errors=True)
        return checked([yolo, "train", *common, "ours"], re.compile(r"train +\d+/\d+ ").match)

    def theirs():
        return checked(driver(given.repo, "train", *common, "theirs", "--device", "cpu"), lambda line: line == "epoch-end\n")

    sides = [theirs, *(lambda yolo=yolo: ours(yolo) for yolo in programs(given))]
    return in_turns(given.train_runs, *sides), f"{workers} workers each, the reference on {'/'.join(sorted(threads))} threads"
