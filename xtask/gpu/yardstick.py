"""A training step of a plain YOLOv5 in PyTorch, as its users run it: the yardstick that `yolo bench --train` is held against.

    yardstick.py --weights W.safetensors --img 640 --batch 32 --device 0 --amp bf16 --variants eager,compile
    yardstick.py --weights W.safetensors --device cpu --img 64 --batch 2 --steps 3 --step S.safetensors
    yardstick.py --golden tests/fixtures/loss.json --graph GRAPH.json --device cpu

`--step` is a file of `yolo bench --train --save-step`: images, targets, maps, losses and gradients of the first step. Then the batch
is the same, and `--check` tells whether both do the same work. Prints one JSON document.
"""

import argparse
import contextlib
import copy
import gc
import json
import math
import statistics
import sys
import time

import numpy as np
import torch

import tensors
from loss import Loss
from network import Network

KINDS = {"bf16": torch.bfloat16, "f16": torch.float16}
BLOCK = 10


def parameter_groups(network, decay):
    """Scales of norms and biases without weight decay, weights with it."""
    norms, weights, biases = [], [], []
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            biases.append(parameter)
        elif parameter.ndim == 1:
            norms.append(parameter)
        else:
            weights.append(parameter)
    return [{"params": biases}, {"params": weights, "weight_decay": decay}, {"params": norms}]


class Average:
    """Exponential moving average of a model, tensor by tensor as YOLOv5 keeps it."""

    def __init__(self, network):
        self.network = copy.deepcopy(network).eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, network):
        self.updates += 1
        decay = 0.9999 * (1 - math.exp(-self.updates / 2000))
        now = network.state_dict()
        for key, average in self.network.state_dict().items():
            if average.dtype.is_floating_point:
                average *= decay
                average += (1 - decay) * now[key].detach()


class Trainer:
    """One network with all that a step needs. `forward` may be the compiled network."""

    def __init__(self, graph, weights, options, variant, gains=None):
        self.device, self.amp = options.torch_device, options.amp
        self.network = Network(graph)
        self.network.load(weights)
        self.network.to(self.device).train()
        if options.kind == torch.float64:
            self.network.double()
        self.channels_last = not options.contiguous
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.forward = self.network
        mode = variant.get("compile")
        if mode:
            torch._dynamo.reset()
            self.forward = torch.compile(self.network, mode=mode, fullgraph=True)
        self.loss = Loss(self.network, options.img, self.device, gains)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network, 5e-4),
            lr=0.01,
            momentum=0.937,
            nesterov=True,
            fused=variant.get("fused") or None,
        )
        self.average = Average(self.network)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp == "f16")

    def autocast(self):
        if self.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=KINDS[self.amp])

    def images(self, batch):
        """uint8 on the host to 0..1 on the device."""
        images = batch.to(self.device, non_blocking=True)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return images.to(memory_format=torch.channels_last) if self.channels_last else images

    def backward(self, batch, targets):
        with self.autocast():
            total, parts = self.loss(self.forward(self.images(batch)), targets.to(self.device, non_blocking=True))
        self.scaler.scale(total).backward()
        return total.detach(), parts

    def step(self, batch, targets, clip=10.0):
        total, _ = self.backward(batch, targets)
        self.scaler.unscale_(self.optimizer)
        if clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update(self.network)
        return total

    def gradients(self):
        return {self.network.key_of(n): p.grad for n, p in self.network.named_parameters()}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def synthetic(options, classes):
    """A batch for when none is given: noise, and eight boxes per image."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.batch, 3, options.img, options.img), dtype=np.uint8)
    count = options.batch * 8
    centres, sides = random.uniform(0.1, 0.9, (count, 2)), random.uniform(0.03, 0.3, (count, 2))
    image, category = np.arange(count) // 8, np.arange(count) % classes
    return images, np.column_stack((image, category, centres, sides)).astype(np.float32)


def measure(graph, weights, batch, targets, options, variant):
    """Time, memory and losses of one variant."""
    device = options.torch_device
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = variant["benchmark"]
    torch.manual_seed(0)
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(graph, weights, options, variant)
    started = time.perf_counter()
    losses = [trainer.step(batch, targets)]
    synchronize(device)
    first = time.perf_counter() - started
    losses += [trainer.step(batch, targets) for _ in range(max(options.warmup - 1, 0))]
    synchronize(device)
    blocks = []
    while sum(n for n, _ in blocks) < options.steps:
        n = min(BLOCK, options.steps - sum(n for n, _ in blocks))
        start = time.perf_counter()
        losses += [trainer.step(batch, targets) for _ in range(n)]
        synchronize(device)
        blocks.append((n, (time.perf_counter() - start) * 1e3 / n))
    times = sorted(ms for _, ms in blocks)
    median = statistics.median(times)
    return {
        "what": "train-step",
        "framework": f"torch {torch.__version__}",
        "variant": variant["name"],
        "amp": options.amp,
        "memory_format": "contiguous" if options.contiguous else "channels-last",
        "benchmark": variant["benchmark"],
        "fused": bool(variant.get("fused")),
        "ms_median": median,
        "ms_p95": times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)],
        "images_per_second": len(batch) * 1e3 / median,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(device) if cuda else None,
        # With `torch.compile` almost all of it is the compilation.
        "first_step_seconds": first,
        "losses": [float(loss) for loss in losses],
    }


def difference(got, wanted):
    """Largest difference, and as a share of the largest value."""
    got, wanted = got.detach().double(), wanted.double()
    worst = float((got - wanted).abs().max())
    return {"abs": worst, "rel": worst / max(float(wanted.abs().max()), 1e-30)}


def agreement(graph, weights, step, options):
    """Whether network, loss and gradients are those of the file of the first step, which ours wrote with the same weights."""
    trainer = Trainer(graph, weights, options, {})
    batch, targets = torch.from_numpy(step["images"]), torch.from_numpy(step["targets"])
    with trainer.autocast():
        maps = trainer.forward(trainer.images(batch))
        total, parts = trainer.loss(maps, targets.to(options.torch_device))
    total.backward()
    result = {"maps": [], "loss": difference(torch.cat((total.view(1), parts)).cpu(), torch.from_numpy(step["loss"]))}
    for level, raw in enumerate(maps):
        n, anchors, h, w, values = raw.shape
        flat = raw.detach().permute(0, 1, 4, 2, 3).reshape(n, anchors * values, h, w)
        result["maps"].append(difference(flat.cpu(), torch.from_numpy(step[f"raw.{level}"])))
    gradients = {k: g.cpu().double() for k, g in trainer.gradients().items() if f"grad.{k}" in step}
    theirs = {k: torch.from_numpy(step[f"grad.{k}"]).double() for k in gradients}
    norm = math.sqrt(sum(float((g**2).sum()) for g in theirs.values()))
    off = math.sqrt(sum(float(((g - theirs[k]) ** 2).sum()) for k, g in gradients.items()))
    result["gradients"] = {"tensors": len(gradients), "norm": norm, "rel": off / max(norm, 1e-30)}
    return result


def golden(path, graph, options):
    """Largest relative error of four steps against the reference's numbers in double precision (tests/golden_loss.rs)."""
    with open(path) as file:
        fixture = json.load(file)
    case = fixture["scratch"]
    shapes = {}
    probe = Network(graph)
    for name, tensor in probe.state_dict().items():
        shapes[probe.key_of(name)] = tensor.numpy()
    options.img, options.amp = 320, "off"
    gains = {key: case["hyp"][key] for key in ("box", "obj", "cls", "anchor_t")}
    trainer = Trainer(graph, tensors.fill(shapes), options, {}, gains)
    batch = torch.from_numpy(tensors.image(2, 3, 320, 320)).to(options.kind)
    targets = torch.tensor(fixture["targets"], dtype=torch.float32)
    worst = {}
    for step in case["steps"]:
        total, parts = trainer.backward(batch, targets)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in trainer.gradients().values()))
        got = [float(total), *map(float, parts), norm]
        for key, value in zip(("total", "lbox", "lobj", "lcls", "grad_norm"), got):
            worst[key] = max(worst.get(key, 0.0), abs(value / step[key] - 1))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    return worst


def variants(options):
    """What is tried, in order: the faster of each kind is the yardstick."""
    cuda = options.torch_device.type == "cuda"
    rows = []
    for name in options.variants.split(","):
        if name == "eager":
            rows += [{"name": name, "benchmark": flag} for flag in ((True, False) if cuda else (False,))]
        elif name == "eager-fused":
            rows.append({"name": name, "benchmark": cuda, "fused": True})
        elif name in ("compile", "compile-max"):
            mode = "default" if name == "compile" else "max-autotune-no-cudagraphs"
            rows.append({"name": name, "benchmark": cuda, "fused": True, "compile": mode})
        else:
            sys.exit(f"yardstick: no variant `{name}`; there are eager, eager-fused, compile, compile-max")
    return rows


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="checkpoint of yolo, which holds the graph")
    parser.add_argument("--graph", help="graph JSON, with --golden")
    parser.add_argument("--golden", help="tests/fixtures/loss.json: check the loss, measure nothing")
    parser.add_argument("--step", help="file of `yolo bench --train --save-step`: the batch, and what to agree with")
    parser.add_argument("--check", action="store_true", help="compare maps, loss and gradients with --step first")
    parser.add_argument("--img", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--device", default="0")
    parser.add_argument("--amp", choices=["off", "bf16", "f16"], default="off")
    parser.add_argument("--variants", default="eager")
    parser.add_argument("--contiguous", action="store_true", help="NCHW in memory")
    parser.add_argument("--double", action="store_true", help="double precision, with --golden")
    parser.add_argument("--strict-f32", action="store_true", help="no TF32 in convolutions and products")
    parser.add_argument("--out", help="JSON file that is rewritten after each variant")
    options = parser.parse_args()
    options.torch_device = torch.device("cpu" if options.device == "cpu" else f"cuda:{options.device.removeprefix('cuda:')}")
    options.kind = torch.float64 if options.double else torch.float32
    if not (options.weights or (options.graph and options.golden)):
        parser.error("--weights, or --golden with --graph")
    return options


def report(document, options):
    text = json.dumps(document)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text)
    return text


def main():
    options = arguments()
    if options.strict_f32:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    if options.golden:
        with open(options.graph) as file:
            print(json.dumps({"golden": golden(options.golden, json.load(file), options)}))
        return
    weights, metadata = tensors.read(options.weights)
    graph = tensors.graph_of(metadata)
    document = {"rows": []}
    if options.step:
        step, _ = tensors.read(options.step)
        images, targets = step["images"], step["targets"]
        if options.check:
            document["agreement"] = agreement(graph, weights, step, options)
            report(document, options)
    else:
        images, targets = synthetic(options, graph["head"]["classes"])
    batch, targets = torch.from_numpy(images), torch.from_numpy(targets)
    if options.torch_device.type == "cuda":
        batch, targets = batch.pin_memory(), targets.pin_memory()
    for variant in variants(options):
        try:
            document["rows"].append(measure(graph, weights, batch, targets, options, variant))
        except Exception as error:  # one variant that fails leaves the others standing
            document["rows"].append({"variant": variant["name"], "error": f"{type(error).__name__}: {error}"[:500]})
        report(document, options)
    print(report(document, options))


if __name__ == "__main__":
    main()
