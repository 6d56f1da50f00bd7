"""Runs ncnn for yolo: reads messages on standard input, answers on standard output (core/export/src/engine/protocol.rs).

Started as python3 -c SCRIPT [FOLDER]; FOLDER may hold the module. Needs nothing but ncnn.
"""
import json
import os
import struct
import sys
import time

# Standard output is for messages alone: what a library prints there goes to standard error.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
asks = sys.stdin.buffer
# A folder called ncnn in the working folder is no module.
sys.path[:] = [place for place in sys.path if place] + sys.argv[1:2]
net = None


def read(count):
    data = bytearray()
    while len(data) < count:
        more = asks.read(count - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def write(head, tensors=()):
    head = json.dumps(head).encode()
    answers.write(struct.pack("<I", len(head)) + head)
    for tensor in tensors:
        answers.write(tensor)
    answers.flush()


def open_file(path, threads):
    global net
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    # The file is computed as it stands.
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        if hasattr(net.opt, "use_" + name):
            setattr(net.opt, "use_" + name, False)
    if threads:
        net.opt.num_threads = threads
    weights = os.path.splitext(path)[0] + ".bin"
    for name, load in ((path, net.load_param), (weights, net.load_model)):
        if not os.path.isfile(name):
            raise ValueError(f"{name} is not there")
        if load(name) != 0:
            raise ValueError(f"it can't load {name}")
    port = lambda name: {"name": name, "shape": []}
    return {"inputs": [port(n) for n in net.input_names()], "outputs": [port(n) for n in net.output_names()]}


def run(inputs):
    import ncnn

    if net is None:
        raise ValueError("no file is open")
    begun = time.perf_counter()
    extractor = net.create_extractor()
    keep = []
    for (name, shape), data in inputs:
        # Blobs have no axis of images.
        if len(shape) == 4 and shape[0] == 1:
            shape = shape[1:]
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"input `{name}` of {shape}: one image is needed")
        blob = ncnn.Mat(memoryview(data).cast("f", shape)).clone()
        keep.append(blob)
        if extractor.input(name, blob) != 0:
            raise ValueError(f"it has no input `{name}`")
    heads, tensors = [], []
    for name in net.output_names():
        code, blob = extractor.extract(name)
        if code != 0:
            raise ValueError(f"it can't compute `{name}` (code {code})")
        view = memoryview(blob)
        heads.append({"name": name, "shape": list(view.shape)})
        tensors.append(view.tobytes())
    milliseconds = (time.perf_counter() - begun) * 1e3
    return {"tensors": heads, "milliseconds": milliseconds}, tensors


while True:
    (length,) = struct.unpack("<I", read(4))
    ask = json.loads(read(length))
    given = [(port["name"], port["shape"]) for port in ask.get("tensors", [])]
    data = []
    for _, shape in given:
        count = 4
        for size in shape:
            count *= size
        data.append(read(count))
    try:
        if ask["do"] == "version":
            import ncnn

            write({"version": ncnn.__version__})
        elif ask["do"] == "open":
            write({"opened": open_file(ask["path"], ask["threads"])})
        else:
            head, tensors = run(list(zip(given, data)))
            write({"ran": head}, tensors)
    except Exception as error:
        write({"error": f"{error}" or type(error).__name__})
