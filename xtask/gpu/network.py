"""The network of a `yolo` graph as an ordinary PyTorch module: what a person would write who had YOLOv5's layers before him.
Knows the ops of the plain networks (yolov5n to yolov5x), which is what speed is compared on."""

import torch
from torch import nn


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


class Concat(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, *values):
        return torch.cat(values, self.dim)


ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "hardswish": nn.Hardswish}


def convolution(op):
    if op.get("weight_quant"):
        raise ValueError("a quantized network is no yardstick")
    sizes = {name: tuple(op[name]) for name in ("stride", "padding", "dilation")}
    return nn.Conv2d(op["cin"], op["cout"], tuple(op["kernel"]), groups=op["groups"], bias=op["bias"], **sizes)


def layer(op):
    """The module of one op."""
    kind = op["op"]
    if kind == "conv2d":
        return convolution(op)
    if kind == "batch-norm":
        return nn.BatchNorm2d(op["channels"], eps=op["eps"], momentum=op["momentum"])
    if kind == "act" and op["act"] in ACTIVATIONS:
        return ACTIVATIONS[op["act"]]()
    if kind == "add":
        return Add()
    if kind == "concat":
        return Concat(op["dim"])
    if kind == "max-pool":
        return nn.MaxPool2d(op["kernel"], op["stride"], op["padding"])
    if kind == "upsample":
        return nn.Upsample(scale_factor=op["scale"], mode="nearest")
    raise ValueError(f"the yardstick has no op `{kind}` ({op}): it is made for yolov5n to yolov5x")


class Network(nn.Module):
    """Runs the ops in order and drops each value after its last use. Returns `[N, anchors, h, w, 5 + classes]` per level, as
    YOLOv5's head does in training."""

    def __init__(self, graph):
        super().__init__()
        nodes = graph["nodes"]
        self.names = [node["name"] for node in nodes[1:]]
        self.layers = nn.ModuleList(layer(node["op"]) for node in nodes[1:])
        inputs = [tuple(node.get("inputs", ())) for node in nodes]
        last = {value: index for index, values in enumerate(inputs) for value in values}
        outputs = graph["outputs"]
        # (values that it reads, values that nobody reads afterwards)
        self.plan = [
            (inputs[index], tuple(v for v in set(inputs[index]) if last[v] == index and v not in outputs))
            for index in range(1, len(nodes))
        ]
        self.outputs = outputs
        head = graph["head"]
        self.anchors, self.strides, self.classes = head["anchors"], head["strides"], head["classes"]

    def forward(self, image):
        values = {0: image}
        for index, (module, (inputs, dead)) in enumerate(zip(self.layers, self.plan), 1):
            result = module(*[values[i] for i in inputs])
            for value in dead:
                del values[value]
            values[index] = result
        maps = []
        for output in self.outputs:
            x = values[output]
            n, _, h, w = x.shape
            maps.append(x.view(n, -1, self.classes + 5, h, w).permute(0, 1, 3, 4, 2).contiguous())
        return maps

    def key_of(self, name):
        """The key in a checkpoint of one of this module's own tensors, `layers.7.weight`."""
        _, index, rest = name.split(".", 2)
        return f"{self.names[int(index)]}.{rest}"

    @torch.no_grad()
    def load(self, tensors):
        """Takes the values of a checkpoint of the same graph."""
        for name, own in self.state_dict().items():
            value = torch.from_numpy(tensors[self.key_of(name)])
            if value.shape != own.shape:
                raise ValueError(f"{self.key_of(name)}: {tuple(value.shape)} instead of {tuple(own.shape)}")
            own.copy_(value)
