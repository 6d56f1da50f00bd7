"""What the parts of the GPU check share: the program, time limits, what was found (kept after every number, so that a part that is
stopped leaves what it had), and the card's own counters."""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACK = pathlib.Path(os.environ.get("GPU_PACK", ROOT / ".gpu")).resolve()
WORK = pathlib.Path(os.environ.get("GPU_WORK", PACK / "work")).resolve()
DEVICE = os.environ.get("DEVICE", "0")
ON_GPU = DEVICE != "cpu"
# Sizes at which every part passes through all its steps on two cores, to try the check itself.
TINY = os.environ.get("TINY", "") not in ("", "0")
STARTED = time.monotonic()
LIMIT = float(os.environ.get("PART_LIMIT", "3600"))


def left():
    """Seconds that this part still has."""
    return LIMIT - (time.monotonic() - STARTED)


def sized(usual, tiny):
    return tiny if TINY else usual


class Failure(Exception):
    """A command that failed; the text is for a person."""


def run(command, name=None, limit=None, environment=None):
    """Runs a command; returns its standard output and the seconds it took. Its messages go to this part's log."""
    command = [str(word) for word in command]
    name = name or " ".join(command[:2])
    print("+", " ".join(command), file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=max(1.0, min(limit or left(), left()) - 1),
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{name}: stopped after {error.timeout:.0f} s") from None
    seconds = time.monotonic() - start
    print(done.stderr[-6000:], end="", file=sys.stderr)
    print(done.stdout[-3000:], file=sys.stderr, flush=True)
    if done.returncode < 0:
        backtrace(command, environment)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise Failure(f"{name}: exit {done.returncode}: {' | '.join(lines[-3:])[-400:]}")
    return done.stdout, seconds


def backtrace(command, environment):
    """Runs a command that a signal ended once more under a debugger, where there is one; its stack goes to the log."""
    debugger = shutil.which("gdb") or shutil.which("cuda-gdb")
    if not debugger or left() < 20:
        return
    wanted = [debugger, "-batch", "-ex", "run", "-ex", "bt 40", "-ex", "info threads", "--args", *command]
    try:
        done = subprocess.run(
            wanted, capture_output=True, stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=min(60, left() - 5),
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return
    print("--- once more under a debugger:", done.stdout[-6000:], sep="\n", file=sys.stderr, flush=True)


def yolo(arguments, limit=None, environment=None):
    """Runs the program; returns its JSON (the whole output, or its last line) and the seconds it took."""
    text, seconds = run([PACK / "yolo", *arguments], f"yolo {arguments[0]}", limit, environment)
    return document(text), seconds


def python(arguments, limit=None, environment=None):
    """Runs a script of this folder."""
    text, seconds = run([sys.executable, HERE / arguments[0], *arguments[1:]], arguments[0], limit, environment)
    return document(text), seconds


def document(text):
    for candidate in (text, *reversed(text.strip().splitlines())):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None


class Result(dict):
    """What a part found: saved at every `keep`, with a line for the table."""

    def __init__(self, part):
        super().__init__(part=part, rows=[], failures=[])
        self.path = WORK / f"{part}.json"
        self.save()

    def save(self):
        self["seconds"] = round(time.monotonic() - STARTED, 1)
        self.path.write_text(json.dumps(self))

    def keep(self, what, value, numbers=None):
        """A row: what, its value as text, and the numbers behind it."""
        self["rows"].append({"what": what, "value": value, "numbers": numbers})
        print(f"{what}: {value}", flush=True)
        self.save()

    def failed(self, what, error):
        self["failures"].append(f"{what}: {error}")
        print(f"FAILED {what}: {error}", flush=True)
        self.save()

    def attempt(self, what, work):
        """Goes on with the next step where one fails; returns what it made, or none."""
        try:
            return work()
        except Failure as error:
            self.failed(what, error)
        except Exception as error:  # also a mistake in the check itself leaves the other steps standing
            traceback.print_exc()
            self.failed(what, f"{type(error).__name__}: {error}")
        return None


class Card:
    """Samples how busy the card is and what it holds, while a block runs."""

    def __enter__(self):
        self.samples, self.process = [], None
        if ON_GPU:
            query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
            index = DEVICE.removeprefix("cuda:").split(",")[0]
            try:
                self.process = subprocess.Popen([*query, "-i", index], stdout=subprocess.PIPE, text=True)
                threading.Thread(target=self.read, daemon=True).start()
            except OSError as error:
                print(f"no samples of the card: {error}", file=sys.stderr)
        return self

    def read(self):
        for line in self.process.stdout:
            try:
                self.samples.append(tuple(float(word) for word in line.split(",")))
            except ValueError:
                continue

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def busy(self):
        """Mean share of time in which a kernel ran, from the first sample with one to the last."""
        active = [index for index, (busy, _) in enumerate(self.samples) if busy > 0]
        if not active:
            return None
        return statistics.mean(busy for busy, _ in self.samples[active[0] : active[-1] + 1]) / 100

    def memory(self):
        """Most bytes that were in use on the card, all processes together."""
        return int(max(used for _, used in self.samples) * 2**20) if self.samples else None


def gib(size):
    return "?" if size is None else f"{size / 2**30:.2f} GiB"
