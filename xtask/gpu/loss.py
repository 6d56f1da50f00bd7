"""YOLOv5's loss in PyTorch, written the usual way: targets are found on the device with boolean masks, predictions are picked by
index. Formulas as in core/engine/src/loss."""

import math

import torch
from torch import nn


def complete_iou(a, b, eps=1e-7):
    """CIoU of paired boxes `[n, 4]` (centre, size)."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.unbind(1), b.unbind(1)
    left_a, right_a, top_a, bottom_a = ax - aw / 2, ax + aw / 2, ay - ah / 2, ay + ah / 2
    left_b, right_b, top_b, bottom_b = bx - bw / 2, bx + bw / 2, by - bh / 2, by + bh / 2
    width = (right_a.minimum(right_b) - left_a.maximum(left_b)).clamp(0)
    height = (bottom_a.minimum(bottom_b) - top_a.maximum(top_b)).clamp(0)
    both = width * height
    ah, bh = ah + eps, bh + eps
    iou = both / (aw * ah + bw * bh - both + eps)
    hull_w = right_a.maximum(right_b) - left_a.minimum(left_b)
    hull_h = bottom_a.maximum(bottom_b) - top_a.minimum(top_b)
    diagonal = hull_w**2 + hull_h**2 + eps
    distance = (bx - ax) ** 2 + (by - ay) ** 2
    aspect = (4 / math.pi**2) * (torch.atan(bw / bh) - torch.atan(aw / ah)) ** 2
    with torch.no_grad():
        alpha = aspect / (aspect - iou + (1 + eps))
    return iou - (distance / diagonal + aspect * alpha)


class Loss:
    """Box, objectness and class loss of the maps `[N, anchors, h, w, 5 + classes]`."""

    def __init__(self, network, size, device, gains=None):
        levels, classes = len(network.anchors), network.classes
        per_level = 3 / levels
        usual = {"box": 0.05 * per_level, "obj": (size / 640) ** 2 * per_level, "cls": 0.5 * classes / 80 * per_level}
        self.gains = {**usual, **(gains or {})}
        self.anchor_t = self.gains.get("anchor_t", 4.0)
        self.classes = classes
        self.balance = [4.0, 1.0, 0.4] if levels == 3 else [4.0, 1.0, 0.25, 0.06, 0.02]
        in_cells = [[[side / stride for side in anchor] for anchor in level] for level, stride in zip(network.anchors, network.strides)]
        self.anchors = torch.tensor(in_cells, device=device)
        self.class_bce = nn.BCEWithLogitsLoss()
        self.object_bce = nn.BCEWithLogitsLoss()
        # Own cell, left, upper, right, lower neighbour.
        self.offsets = torch.tensor([[0, 0], [0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]], device=device)

    def assign(self, level, targets, h, w):
        """Which anchors of which cells answer for which label: indexes, boxes, anchors, classes."""
        anchors = self.anchors[level]
        count, labels = len(anchors), len(targets)
        scale = torch.tensor([1, 1, w, h, w, h, 1], device=targets.device, dtype=targets.dtype)
        number = torch.arange(count, device=targets.device, dtype=targets.dtype).view(count, 1).repeat(1, labels)
        rows = torch.cat((targets.repeat(count, 1, 1), number[..., None]), 2) * scale
        ratio = rows[..., 4:6] / anchors[:, None]
        rows = rows[torch.max(ratio, 1 / ratio).amax(2) < self.anchor_t]
        centre = rows[:, 2:4]
        inverse = scale[[2, 3]] - centre
        left, upper = ((centre % 1 < 0.5) & (centre > 1)).T
        right, lower = ((inverse % 1 < 0.5) & (inverse > 1)).T
        taken = torch.stack((torch.ones_like(left), left, upper, right, lower))
        rows = rows.repeat(5, 1, 1)[taken]
        shift = (torch.zeros_like(centre)[None] + self.offsets[:, None])[taken]
        image, category = rows[:, :2].long().T
        anchor = rows[:, 6].long()
        column, row = (rows[:, 2:4] - shift).long().T
        column, row = column.clamp(0, w - 1), row.clamp(0, h - 1)
        boxes = torch.cat((rows[:, 2:4] - torch.stack((column, row), 1), rows[:, 4:6]), 1)
        return (image, anchor, row, column), boxes, anchors[anchor], category

    def __call__(self, maps, targets):
        """The loss times the batch size, and its three parts detached."""
        device = targets.device
        box, obj, cls = (torch.zeros(1, device=device) for _ in range(3))
        for level, raw in enumerate(maps):
            place, boxes, anchors, categories = self.assign(level, targets, *raw.shape[2:4])
            goal = torch.zeros(raw.shape[:4], dtype=raw.dtype, device=device)
            if len(boxes):
                xy, wh, _, scores = raw[place].split((2, 2, 1, self.classes), 1)
                xy = xy.sigmoid() * 2 - 0.5
                wh = (wh.sigmoid() * 2) ** 2 * anchors
                iou = complete_iou(torch.cat((xy, wh), 1), boxes)
                box = box + (1 - iou).mean()
                goal[place] = iou.detach().clamp(0).type(goal.dtype)
                if self.classes > 1:
                    wanted = torch.zeros_like(scores)
                    wanted[torch.arange(len(categories), device=device), categories] = 1
                    cls = cls + self.class_bce(scores, wanted)
            obj = obj + self.object_bce(raw[..., 4], goal) * self.balance[level]
        parts = torch.cat((box * self.gains["box"], obj * self.gains["obj"], cls * self.gains["cls"]))
        return parts.sum() * maps[0].shape[0], parts.detach()
