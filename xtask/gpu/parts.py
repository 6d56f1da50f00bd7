"""The parts of the GPU check: `parts.py NAME` runs one and leaves NAME.json in the work folder. See check.sh."""

import concurrent.futures
import json
import os
import platform
import shutil
import sys

import numpy as np

import tensors
from runner import DEVICE, ON_GPU, PACK, ROOT, WORK, Card, Failure, Result, gib, left, python, run, sized, yolo

DATA = PACK / "bccd" / "data.yaml"
# Without it cuBLAS and cuDNN may round the inputs of f32 convolutions and products to 10 bits (TF32).
STRICT = {"NVIDIA_TF32_OVERRIDE": "0"}
# Rounding of f32 in another order stays below this; TF32, a wrong kernel or a value on the wrong device do not.
CLOSE = 1e-3
# Forms of the PyTorch step: eager ones, and after a space torch.compile's.
YARDSTICKS = os.environ.get("YARDSTICKS", sized("eager,eager-fused compile", "eager eager")).split()


def init_weights(cfg, path, classes=None):
    extra = [] if classes is None else ["--nc", classes]
    yolo(["model", cfg, *extra, "--init-weights", path, "--json"])
    return path


def setup(result):
    """The machine, and how long the first start takes: it compiles the shared library for the PyTorch that is there."""
    _, first = yolo(["doctor", "--json"])
    found, again = yolo(["doctor", "--json"])
    result.keep("first start", f"{first:.1f} s, then {again:.2f} s", {"first": first, "again": again, "doctor": found})
    torch = found.get("libtorch") or {}
    result.keep("libtorch", f"{torch.get('version')}, devices {found.get('devices')}")
    result.keep("cores", f"{os.cpu_count()}, Python {platform.python_version()}")
    if ON_GPU:
        text, _ = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
        result.keep("card", text.strip().splitlines()[0])


def compare(got, wanted):
    """Largest difference of two files' tensors, and as a share of the tensor's largest value."""
    first, second = tensors.read(got)[0], tensors.read(wanted)[0]
    if first.keys() != second.keys():
        raise Failure(f"other tensors: {sorted(first.keys() ^ second.keys())[:4]}")
    worst = {"abs": 0.0, "rel": 0.0, "tensor": ""}
    for name, a in first.items():
        b = second[name].astype(np.float64)
        off = float(np.abs(a.astype(np.float64) - b).max())
        share = off / max(float(np.abs(b).max()), 1e-30)
        if not np.isfinite(share):
            raise Failure(f"{name} is not finite")
        if share >= worst["rel"]:
            worst = {"abs": off, "rel": share, "tensor": name}
    return worst


def forward(name, size):
    """One model on both devices, with weights that show an error in any layer."""
    folder = WORK / f"a-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        weights = init_weights(name, folder / "w.safetensors", 10)
        values, metadata = tensors.read(weights)
        tensors.write(weights, tensors.fill(values), metadata)
        del values
        tensors.write(folder / "x.safetensors", {"images": tensors.image(2, 3, size, size)})
        files = {}
        for device in ("cpu", DEVICE):
            files[device] = folder / f"y-{device.replace(':', '')}.safetensors"
            common = ["--weights", weights, "--input", folder / "x.safetensors", "--output", files[device]]
            yolo(["forward", *common, "--device", device], environment={**STRICT, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 4))})
        return compare(files[DEVICE], files["cpu"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def first_step(weights, device, options, environment=None):
    """What the first step of a training made, as a file."""
    path = WORK / f"step-{device.replace(':', '')}.safetensors"
    yolo(["bench", "--train", "--weights", weights, "--device", device, "--save-step", path, *options, "--json"], environment=environment)
    return path


def models(result):
    """Forward of every model on both devices; loss and gradients of a step."""
    names = sorted(path.stem for path in (ROOT / "configs/models").glob("*.yaml"))
    names = sized(names, ["yolov5n", "yolov5l-pplcnet"])
    # The largest first, so that none of them is last and alone.
    names.sort(key=lambda name: -"nslmx".find(name[6]) if len(name) > 6 else 0)
    worst = {}
    with concurrent.futures.ThreadPoolExecutor(sized(4, 1)) as pool:
        jobs = {pool.submit(forward, name, sized(256, 64)): name for name in names}
        for job in concurrent.futures.as_completed(jobs):
            name = jobs[job]
            found = result.attempt(f"forward {name}", job.result)
            if found:
                worst[name] = found
                if found["rel"] > CLOSE:
                    result.failed(f"forward {name}", f"relative difference {found['rel']:.1e} ({found['tensor']})")
                result["models"] = worst
                result.save()
    if worst:
        name = max(worst, key=lambda name: worst[name]["rel"])
        text = f"{len(worst)} of {len(names)} models, worst relative {worst[name]['rel']:.1e}, absolute {worst[name]['abs']:.1e} ({name})"
        result.keep(f"forward f32, cpu against {DEVICE}", text, worst)
        if ON_GPU and all(found["abs"] == 0.0 for found in worst.values()):
            # Two devices never round all alike: one was compared with itself.
            result.failed("forward f32", "not one number differs: both sides ran on the same device")
    result.attempt("loss and gradients", lambda: gradients(result))
    result.attempt("the yardstick's loss", lambda: golden(result))


def gradients(result):
    weights = init_weights("yolov5n", WORK / "golden.safetensors", 10)
    options = ["--img", sized(320, 64), "--batch-size", sized(8, 2), "--steps", 1, "--warmup", 0, "--amp", "off"]
    found = compare(first_step(weights, DEVICE, options, STRICT), first_step(weights, "cpu", options))
    text = f"worst relative {found['rel']:.1e} ({found['tensor']})"
    result.keep(f"loss and gradients f32, cpu against {DEVICE}", text, found)
    if found["rel"] > CLOSE:
        result.failed("loss and gradients", text)


def golden(result):
    """The PyTorch loss of the yardstick against the reference's numbers: what is compared later is the same work."""
    graph = WORK / "golden.json"
    yolo(["model", "yolov5n", "--nc", 10, "--graph", graph, "--json"])
    fixture = ROOT / "tests/fixtures/loss.json"
    # On the CPU: where two boxes claim one cell, the last one wins there, and any on a card.
    arguments = ["yardstick.py", "--golden", fixture, "--graph", graph, "--device", "cpu", "--double"]
    found = python(arguments)[0]["golden"]
    text = f"worst relative {max(found.values()):.1e}"
    result.keep("yardstick's loss and gradients, f64, against the golden ones", text, found)
    if not max(found.values()) < 1e-5:
        result.failed("the yardstick's loss", text)


def train(result, amp):
    """A short training on real data."""
    options = ["--data", DATA, "--weights", PACK / "yolov5n.pt", "--epochs", sized(15, 1), "--img", sized(320, 64)]
    options += ["--batch-size", sized(16, 4), "--device", DEVICE, "--amp", amp, "--workers", min(os.cpu_count() or 2, 12)]
    options += ["--project", WORK / "train", "--name", amp, "--exist-ok", "--noplots", "--json"]
    with Card() as card:
        found, wall = yolo(["train", *options])
    images = len(list((PACK / "bccd/images/train").iterdir()))
    speed = found.get("images_per_second") or images * sized(15, 1) / found["seconds"]
    memory = found.get("peak_device_memory_bytes") or card.memory()
    busy = card.busy()
    text = f"mAP50 {found['map50']:.3f}, mAP {found['map']:.3f}, {found['seconds']:.1f} s, {speed:.0f} img/s, {gib(memory)}"
    text += "" if busy is None else f", card busy {100 * busy:.0f} %"
    numbers = {**found, "wall": wall, "busy": busy, "memory": memory, "images_per_second": speed}
    result.keep(f"BCCD yolov5n {sized(15, 1)} epochs, {amp}", text, numbers)


def accuracy(result):
    """Training on BCCD in half and in single precision."""
    for amp in ("bf16", "off"):
        result.attempt(f"training, {amp}", lambda amp=amp: train(result, amp))


def bench_step(options, amp, extra=()):
    found, _ = yolo(["bench", "--train", *options, "--device", DEVICE, "--amp", amp, *extra, "--json"])
    return found["rows"][0]


def show(row):
    text = f"{row['ms_median']:.1f} ms, {row['images_per_second']:.0f} img/s, {gib(row.get('peak_memory_bytes'))}"
    if row.get("host_ms"):
        text += f", host {sum(row['host_ms'].values()):.1f} ms, graphs {row['compile']}"
    return text


def yardstick(result, weights, amp, step, variants, limit=None, check=False):
    options = ["--weights", weights, "--img", sized(640, 64), "--batch", sized(32, 2), "--device", DEVICE, "--amp", amp]
    options += ["--steps", sized(50, 3), "--warmup", sized(10, 1), "--variants", variants]
    options += ["--step", step, *(["--check"] if check else [])] if step else []
    out = WORK / f"yardstick-{amp}-{variants.split(',')[0]}.json"
    # What was measured before a variant took too long counts.
    try:
        found, _ = python(["yardstick.py", *options, "--out", out], limit)
    except Failure as error:
        result.failed(f"yardstick {amp} {variants}", error)
        found = json.loads(out.read_text()) if out.exists() else {"rows": []}
    rows = []
    for row in found["rows"]:
        name = f"{row['variant']}{' benchmark' if row.get('benchmark') else ''}"
        if "error" in row:
            result.failed(f"yardstick {amp} {name}", row["error"])
            continue
        rows.append(row)
        first = f", first step {row['first_step_seconds']:.0f} s" if "compile" in name else ""
        result.keep(f"step {amp}, PyTorch {name}", show(row) + first, row)
    if "agreement" in found:
        agree = found["agreement"]
        maps = max(level["rel"] for level in agree["maps"])
        text = f"maps {maps:.1e}, loss {agree['loss']['rel']:.1e}, gradients {agree['gradients']['rel']:.1e} (relative)"
        result.keep(f"step {amp}, PyTorch against ours", text, agree)
    return rows


def ratio(result, name, ours, rows):
    if ours and rows:
        best = min(rows, key=lambda row: row["ms_median"])
        text = f"{best['ms_median'] / ours['ms_median']:.2f}x as fast"
        memory = (ours.get("peak_memory_bytes"), best.get("peak_memory_bytes"))
        text += f", {memory[0] / memory[1]:.2f}x the memory" if all(memory) else ""
        result.keep(name, text, {"times": best["ms_median"] / ours["ms_median"], "best": best["variant"]})
    if ours and rows and ours.get("losses"):
        pairs = list(zip(ours["losses"], rows[0]["losses"]))[:3]
        text = ", ".join(f"{mine:.4f} / {theirs:.4f}" for mine, theirs in pairs)
        result.keep(f"{name}: first losses", text)


def steps(result):
    """The training step beside PyTorch's, on the same batch with the same weights."""
    weights = init_weights(sized("yolov5s", "yolov5n"), WORK / "step.safetensors")
    options = ["--weights", weights, "--img", sized(640, 64), "--batch-size", sized(32, 2)]
    options += ["--steps", sized(50, 3), "--warmup", sized(10, 1)]
    ours, files = {}, {}
    for amp in ("bf16", "off"):
        files[amp] = WORK / f"step-{amp}.safetensors"

        def bench(amp=amp):
            ours[amp] = bench_step(options, amp, ["--save-step", files[amp]])
            result.keep(f"step {amp}, ours", show(ours[amp]), ours[amp])

        result.attempt(f"our step, {amp}", bench)
    variants = [("without CUDA graphs", ["--compile", "off"]), ("without our kernels", ["--plain"])] if ON_GPU else []
    for what, extra in variants:

        def variant(what=what, extra=extra):
            row = bench_step(options, "bf16", extra)
            result.keep(f"step bf16, ours {what}", show(row), row)

        result.attempt(f"our step, {what}", variant)
    given = {amp: path if path.exists() else None for amp, path in files.items()}
    eager = yardstick(result, weights, "bf16", given["bf16"], YARDSTICKS[0], check=True)
    ratio(result, "step bf16, ours against eager", ours.get("bf16"), eager)
    if YARDSTICKS[1:]:
        compiled = yardstick(result, weights, "bf16", given["bf16"], YARDSTICKS[1], max(left() - 40, 20))
        ratio(result, "step bf16, ours against torch.compile", ours.get("bf16"), compiled)
    single = yardstick(result, weights, "off", given["off"], "eager", check=True)
    ratio(result, "step f32, ours against eager", ours.get("off"), single)


def busy(result):
    """A training that fills the card: how long does the card wait for the loader?"""
    pictures, names = WORK / "many/images/train", sorted((PACK / "bccd/images/train").iterdir())
    for folder in (pictures, WORK / "many/labels/train"):
        folder.mkdir(parents=True, exist_ok=True)
    for turn in range(sized(20, 1)):
        for image in names:
            label = PACK / "bccd/labels/train" / f"{image.stem}.txt"
            for source, folder in ((image, pictures), (label, WORK / "many/labels/train")):
                target = folder / f"{turn}-{source.name}"
                if not target.exists():
                    os.link(source, target)
    yaml = WORK / "many/data.yaml"
    lines = [line for line in DATA.read_text().splitlines() if not line.startswith(("path:", "train:", "val:"))]
    yaml.write_text("\n".join([f"path: {WORK / 'many'}", "train: images/train", f"val: {PACK / 'bccd/images/val'}", *lines]) + "\n")
    for cfg, batch in sized((("yolov5s", 32), ("yolov5m", 32)), (("yolov5n", 8),)):

        def train(cfg=cfg, batch=batch):
            options = ["--data", yaml, "--cfg", cfg, "--epochs", sized(2, 1), "--img", sized(640, 64), "--batch-size", batch]
            options += ["--device", DEVICE, "--workers", min(os.cpu_count() or 2, 16), "--cache", "ram", "--noval", "--noplots"]
            with Card() as card:
                found, _ = yolo(["train", *options, "--project", WORK / "busy", "--name", cfg, "--exist-ok", "--json"])
            # The median sample leaves out start, end and the last validation.
            samples = sorted(share for share, _ in card.samples)
            middle = samples[len(samples) // 2] if samples else None
            active = card.busy()
            text = f"{found['images_per_second']:.0f} img/s"
            text += "" if active is None else f", card busy {100 * active:.0f} % (median sample {middle:.0f} %)"
            result.keep(f"training {cfg} at {sized(640, 64)}, batch {batch}", text, {**found, "busy": active, "median": middle})

        result.attempt(f"training {cfg}", train)


def features(result):
    """Every metric, distiller and way to quantize once on the card."""
    weights, folder = trained(), WORK / "features"
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--data", DATA, "--img", sized(320, 64), "--device", DEVICE, "--json"]
    plugins, _ = yolo(["list-plugins", "--json"])
    names = {kind: [row["name"] for row in plugins["plugins"] if row["kind"] == kind] for kind in ("metric", "distiller", "pruner", "quantizer")}
    work = {}
    for metric in names["metric"]:
        options = ["prune", "--weights", weights, "--pruner", "oneshot", "--metric", metric, "--flops", 0.6, "--noval"]
        work[f"metric {metric}"] = [*options, "--out", folder / f"metric-{metric}.safetensors", *common]
    for pruner in names["pruner"]:
        options = ["prune", "--weights", weights, "--pruner", pruner, "--flops", 0.6, "--noval"]
        work[f"pruner {pruner}"] = [*options, "--out", folder / f"pruner-{pruner}.safetensors", *common]
    for distiller in names["distiller"]:
        options = ["train", "--weights", PACK / "yolov5n.pt", "--teacher", weights, "--distiller", distiller, "--epochs", 1]
        work[f"distiller {distiller}"] = [*options, "--noval", "--noplots", "--project", folder, "--name", distiller, *common]
    ways = {
        "bias correction": ["--bias-correction", "true"],
        "fitted ranges": ["--fit-ranges", "true"],
        "adaround": ["--rounding", "adaround"],
        "float layers": ["--float-layers", "auto", "--max-drop", 0.3],
        "qat": ["--qat-epochs", 1],
    }
    for way, extra in ways.items():
        options = ["quantize", "--weights", weights, "--backend", "onnxruntime", "--calib-batches", 2, *extra]
        work[f"quantize, {way}"] = [*options, "--out", folder / f"int8-{way.replace(' ', '-')}", *common]
    with concurrent.futures.ThreadPoolExecutor(sized(8, 2)) as pool:
        jobs = {pool.submit(yolo, command): what for what, command in work.items()}
        done = [jobs[job] for job in concurrent.futures.as_completed(jobs) if result.attempt(jobs[job], job.result)]
    result.keep("metrics, pruners, distillers, ways to quantize", f"{len(done)} of {len(work)} ran", sorted(done))


def tuned(result):
    """`torch.compile` that tries many kernels: takes minutes, so it comes last and only where time is left."""
    weights, step = WORK / "step.safetensors", WORK / "step-bf16.safetensors"
    if not weights.exists():
        init_weights(sized("yolov5s", "yolov5n"), weights)
    rows = yardstick(result, weights, "bf16", step if step.exists() else None, "compile-max")
    earlier = WORK / "c.json"
    known = json.loads(earlier.read_text())["rows"] if earlier.exists() else []
    ours = next((row["numbers"] for row in known if row["what"] == "step bf16, ours"), None)
    ratio(result, "step bf16, ours against torch.compile max-autotune", ours, rows)


def large(result):
    """Transformers at the size that they were made for."""
    for name in sized(("yolov5x-tph", "yolov5x-swin"), ("yolov5n",)):

        def bench(name=name):
            options = ["--cfg", name, "--img", sized(1536, 64), "--batch-size", sized(4, 2), "--steps", sized(5, 1)]
            row = bench_step([*options, "--warmup", sized(2, 1)], "bf16")
            result.keep(f"step {name} at {sized(1536, 64)}, batch {sized(4, 2)}, bf16", show(row), row)

        result.attempt(name, bench)


def processes(result):
    """One process of a group of one: NCCL starts, reduces and ends."""
    data = WORK / "synth"
    if not data.exists():
        yolo(["data", "synth", "--out", data, "--images", 32, "--img", 128])
    world = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    options = ["--data", data / "data.yaml", "--cfg", "yolov5n", "--epochs", 1, "--img", 128, "--batch-size", 8]
    options += ["--device", DEVICE, "--project", WORK / "nccl", "--name", "one", "--exist-ok", "--noplots", "--json"]
    found, seconds = yolo(["train", *options], environment=world)
    wanted, backend = "nccl" if ON_GPU else "gloo", found.get("backend")
    result.keep("group of one process", f"backend {backend}, {seconds:.1f} s", found)
    if backend != wanted:
        result.failed("group of one process", f"backend {backend} instead of {wanted}")


def trained():
    """A checkpoint with BCCD's classes."""
    for amp in ("bf16", "off"):
        path = WORK / "train" / amp / "weights/best.safetensors"
        if path.exists():
            return path
    options = ["--data", DATA, "--weights", PACK / "yolov5n.pt", "--epochs", 1, "--img", sized(320, 64), "--noval"]
    options += ["--device", DEVICE]
    yolo(["train", *options, "--project", WORK / "train", "--name", "off", "--exist-ok", "--noplots", "--json"])
    return WORK / "train/off/weights/best.safetensors"


def search(weights, device, candidates):
    """Seconds of an EagleEye search."""
    options = ["--weights", weights, "--data", DATA, "--pruner", "eagleeye", "--set", f"candidates={candidates}"]
    options += ["--flops", 0.6, "--img", sized(320, 64), "--noval", "--calib-batches", sized(13, 2), "--workers", min(os.cpu_count() or 2, 12)]
    options += ["--select-images", sized(64, 8), "--out", WORK / f"pruned-{candidates}.safetensors"]
    options += ["--device", device]
    return yolo(["prune", *options, "--json"], environment={})[1]


def compression(result):
    """Pruning by search and calibration, on both devices."""
    weights = trained()
    few, many = sized((2, 10), (1, 2))
    for device in dict.fromkeys((DEVICE, "cpu")):

        def prune(device=device):
            # The difference of two searches leaves out start and end.
            times = [search(weights, device, n) for n in (few, many)]
            each = (times[1] - times[0]) / (many - few)
            text = f"{60 / each:.0f} candidates per minute" if each > 0 else f"{times} s: too short to say"
            result.keep(f"EagleEye on {device}", text, {"seconds": times, "candidates": [few, many]})

        def calibrate(device=device):
            out = WORK / f"int8-{device.replace(':', '')}"
            options = ["--weights", weights, "--data", DATA, "--backend", "tensorrt", "--img", sized(320, 64)]
            options += ["--calib-batches", sized(13, 1), "--workers", min(os.cpu_count() or 2, 12), "--out", out]
            options += ["--device", device]
            found, seconds = yolo(["quantize", *options, "--json"])
            maps = f"mAP50 {found['map50_float']:.3f} to {found['map50_quant']:.3f}"
            result.keep(f"PTQ on {device}", f"{seconds:.1f} s in all, {maps}", {**found, "wall": seconds})

        result.attempt(f"PTQ on {device}", calibrate)
        result.attempt(f"EagleEye on {device}", prune)


def kernels(result):
    """The program's own CUDA kernels against libtorch's ops, if it has any."""
    if "--kernels" not in run([PACK / "yolo", "doctor", "--help"])[0]:
        result.keep("kernels", "this program has none")
        return
    found, seconds = yolo(["doctor", "--kernels", "--json"])
    result.keep("kernels", f"checked in {seconds:.1f} s", found)


PARTS = {
    "0": setup,
    "a": models,
    "b": accuracy,
    "c": steps,
    "d": large,
    "e": processes,
    "f": compression,
    "g": kernels,
    "h": busy,
    "n": features,
    "t": tuned,
}


def main():
    name = sys.argv[1]
    WORK.mkdir(parents=True, exist_ok=True)
    result = Result(name)
    result.attempt(PARTS[name].__doc__.split("\n")[0].rstrip("."), lambda: PARTS[name](result))
    result["finished"] = True
    result.save()
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
