"""Runs a checkout of the reference as it is, in an environment newer than the one it was written for.

    driver.py CHECKOUT detect ARGUMENTS...   its detect.py
    driver.py CHECKOUT train ARGUMENTS...    its train.py; one line `epoch-end` on stdout after every epoch
    driver.py CHECKOUT serve                 networks on demand: requests and replies, one JSON document a line

No file of the checkout is changed and nothing is fetched. What has to be bridged, once and here:
* torch.load refuses pickled models by default since torch 2.6;
* names that numpy dropped (np.int, np.trapz);
* a font that it would fetch where it is not installed: the one of Pillow serves;
* the checks that would fetch fonts, packages or news. They would only slow the reference down.
"""
import argparse
import copy
import json
import os
import runpy
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import ImageFont


def bridge(checkout):
    """Makes the checkout importable and keeps it off the network."""
    sys.path.insert(0, str(checkout))
    load = torch.load
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False, **kwargs})
    for name, now in (("int", int), ("float", float), ("bool", bool), ("object", object)):
        if name not in vars(np):
            setattr(np, name, now)
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid
    truetype = ImageFont.truetype

    def any_font(font=None, size=10, *args, **kwargs):
        try:
            return truetype(font, size, *args, **kwargs)
        except OSError:
            return ImageFont.load_default(size)

    ImageFont.truetype = any_font
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError("the comparison runs without a network")
        return connect(self, address)

    socket.socket.connect = local_only


def without_checks():
    """The checks of requirements and of the repository's age do nothing."""
    import utils.general as general

    for name in ("check_requirements", "check_git_status"):
        if hasattr(general, name):
            setattr(general, name, lambda *args, **kwargs: None)


def script(checkout, name, arguments):
    sys.argv = [str(checkout / name), *arguments]
    runpy.run_path(str(checkout / name), run_name="__main__")


def train(checkout, arguments):
    """The reference's training; the hook that it calls after writing an epoch's checkpoint tells the time to the parent."""
    from utils.callbacks import Callbacks

    run = Callbacks.run

    def told(self, hook, *args, **kwargs):
        result = run(self, hook, *args, **kwargs)
        if hook == "on_train_start":
            print(f"\nthreads {torch.get_num_threads()}", flush=True)
        if hook == "on_model_save":
            # On a line of its own, whatever a progress bar has left unfinished.
            print("\nepoch-end", flush=True)
        return result

    Callbacks.run = told
    script(checkout, "train.py", arguments)


def noise(size, seed):
    """An image [1, 3, size, size]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Network:
    """A fused network in eval mode."""

    def __init__(self, model):
        self.model = model

    @classmethod
    def load(cls, weights):
        """From a checkpoint, as the reference's own detect.py does."""
        from models.experimental import attempt_load

        return cls(attempt_load(weights))

    @classmethod
    def build(cls, cfg, classes, save):
        """From a model YAML with random weights. The statistics of its batch norms are those of one batch, or activations would
        fade to denormal numbers, which are slow. The unfused tensors go to `save`, for ours to read."""
        from models.yolo import Model

        torch.manual_seed(0)
        model = Model(cfg, ch=3, nc=classes)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        usual = [m.momentum for m in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.rand(4, 3, 256, 256))
        for norm, momentum in zip(norms, usual):
            norm.momentum = momentum
        model.eval()
        write_safetensors(save, {key: tensor.numpy() for key, tensor in model.state_dict().items()})
        return cls(model.fuse().eval())

    @torch.inference_mode()
    def differences(self, size, other):
        """How far the decoded boxes of `other` [1, N, 5 + classes] for the image of `input` are from those of this network in
        double precision, and how far its own single precision is. Relative to 1 + |value|: boxes are in hundreds of pixels and
        scores below one."""
        image = noise(size, seed=1)
        exact = copy.deepcopy(self.model).double()(image.double())[0].numpy()
        if exact.shape != other.shape:
            raise ValueError(f"the networks differ: {list(exact.shape)} boxes, ours has {list(other.shape)}")

        def worst(boxes):
            return float((np.abs(boxes - exact) / (1 + np.abs(exact))).max())

        return {"ours": worst(other), "reference": worst(self.model(image)[0].numpy())}

    @torch.inference_mode()
    def times(self, size, warm_up, runs, seconds):
        """Milliseconds of single forwards of one image: at least `runs`, and until `seconds` are over."""
        image = noise(size, seed=0)
        for _ in range(warm_up):
            self.model(image)
        taken, start = [], time.perf_counter()
        while len(taken) < runs or time.perf_counter() - start < seconds:
            began = time.perf_counter()
            self.model(image)
            taken.append((time.perf_counter() - began) * 1e3)
        return taken


@torch.inference_mode()
def fastest_convolution(seconds):
    """Billions of operations per second of the fastest dense 3 x 3 convolution of a YOLOv5l neck: what this processor has for networks
    that consist of them. The median of each shape, the best of the shapes and layouts."""
    best = 0.0
    for channels, side in ((128, 80), (256, 40), (512, 20)):
        for layout in (torch.contiguous_format, torch.channels_last):
            layer = torch.nn.Conv2d(channels, channels, 3, padding=1).eval().to(memory_format=layout)
            x = torch.rand(1, channels, side, side).to(memory_format=layout)
            for _ in range(3):
                layer(x)
            taken, start = [], time.perf_counter()
            while time.perf_counter() - start < seconds:
                began = time.perf_counter()
                layer(x)
                taken.append(time.perf_counter() - began)
            best = max(best, 2e-9 * 9 * channels**2 * side**2 / float(np.median(taken)))
    return best


def write_safetensors(path, tensors):
    """The format is eight bytes of length, a JSON header, the data."""
    header, parts, end = {}, [], 0
    for name, tensor in tensors.items():
        kind, code = ("<i8", "I64") if tensor.dtype.kind == "i" else ("<f4", "F32")
        raw = tensor.astype(kind)
        header[name] = {"dtype": code, "shape": list(raw.shape), "data_offsets": [end, end + raw.nbytes]}
        parts.append(raw.tobytes())
        end += raw.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def read_safetensors(path, name):
    raw = Path(path).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:start])[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{path}: `{name}` is {entry['dtype']}, not F32")
    begin, end = (start + offset for offset in entry["data_offsets"])
    return np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"])


def answer(request, networks):
    """One request to `serve`."""
    do, name = request["do"], request.get("name")
    if do == "threads":
        torch.set_num_threads(request["threads"])
        return {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if do == "load":
        networks[name] = Network.load(request["weights"])
    elif do == "build":
        networks[name] = Network.build(request["cfg"], request["classes"], request["save"])
    elif do == "forget":
        del networks[name]
    elif do == "input":
        write_safetensors(request["path"], {"images": noise(request["size"], seed=1).numpy()})
    elif do == "differences":
        return networks[name].differences(request["size"], read_safetensors(request["path"], "decoded"))
    elif do == "fastest-convolution":
        return {"gflops_per_second": fastest_convolution(request["seconds"])}
    elif do == "time":
        plan = {key: request[key] for key in ("size", "warm_up", "runs", "seconds")}
        return {"ms": networks[name].times(**plan)}
    else:
        raise ValueError(f"unknown request `{do}`")
    return {}


def serve():
    """Answers requests until stdin closes. What the reference prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    networks = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), networks)
        except Exception as error:  # whatever the checkout raises is the answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("do", choices=["detect", "train", "serve"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    bridge(checkout)
    without_checks()
    if given.do == "detect":
        script(checkout, "detect.py", given.arguments)
    elif given.do == "train":
        train(checkout, given.arguments)
    else:
        serve()


if __name__ == "__main__":
    main()
