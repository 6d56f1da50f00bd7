#!/usr/bin/env python3
"""Runs an example and `yolo detect` on the same pictures and compares what they find.

    check.py ./onnxruntime best.onnx bus.jpg zidane.jpg
    check.py ./ncnn best.param photos/*.jpg --yolo target/release/yolo
    check.py ./tensorrt best.engine photos/*.jpg --against best.onnx --score 0.02

Partners have one class, overlap by more than --iou and differ in score by at most --score. The exit code is 1 where a detection has no
partner, unless its score is so close to the threshold that it may be on either side of it.
"""

import argparse
import json
import pathlib
import subprocess
import sys


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / max(area - both, 1e-9)


def by_example(program, file, picture):
    run = subprocess.run([program, file, picture], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{program} {file} {picture}: exit code {run.returncode}\n{run.stderr.strip()}")
    found = []
    for line in run.stdout.splitlines():
        name, score, *box = line.rsplit(" ", 5)  # names may have spaces
        found.append((name, float(score), [float(value) for value in box]))
    return found


def by_yolo(yolo, file, pictures, thresholds):
    command = [yolo, "detect", "--weights", file, "--nosave", "--json", "--source", *pictures]
    command += ["--conf-thres", str(thresholds["score"]), "--iou-thres", str(thresholds["iou"]), "--max-det", str(thresholds["boxes"])]
    command += ["--agnostic-nms"] if thresholds.get("agnostic") else []
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {run.returncode}")
    found = {}
    for image in json.loads(run.stdout)["images"]:
        found[image["path"]] = [(one["name"], one["conf"], one["xyxy"]) for one in image["detections"]]
    return found


def pair(ours, theirs, least_iou, most_score):
    """Pairs, best overlap first, and what is left on both sides."""
    fits = [
        (iou(a[2], b[2]), i, j)
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if a[0] == b[0] and abs(a[1] - b[1]) <= most_score
    ]
    pairs, used_i, used_j = [], set(), set()
    for overlap, i, j in sorted(fits, reverse=True):
        if overlap > least_iou and i not in used_i and j not in used_j:
            pairs.append((overlap, ours[i], theirs[j]))
            used_i.add(i)
            used_j.add(j)
    left = [("example", one) for i, one in enumerate(ours) if i not in used_i]
    left += [("yolo", one) for j, one in enumerate(theirs) if j not in used_j]
    return pairs, left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example")
    parser.add_argument("file", help="what it runs")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--against", help="what `yolo detect` runs, where that is another file (with FILE.json beside it)")
    parser.add_argument("--yolo", default="yolo", help="the program `yolo`")
    parser.add_argument("--iou", type=float, default=0.9)
    parser.add_argument("--score", type=float, default=0.01)
    parser.add_argument("--slack", type=float, default=0.02, help="scores up to threshold + SLACK may be missing on one side")
    args = parser.parse_args()

    against = args.against or args.file
    try:
        thresholds = json.loads(pathlib.Path(against + ".json").read_text(encoding="utf-8"))["thresholds"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{against}.json has no thresholds that can be read: {error}")
    expected = by_yolo(args.yolo, against, args.pictures, thresholds)

    print(f"{'picture':<24} {'example':>7} {'yolo':>5} {'paired':>6} {'least IoU':>9} {'score':>8} {'pixels':>7}  unpaired")
    totals, wrong = [0, 0, 0, 1.0, 0.0, 0.0], 0
    for picture in args.pictures:
        ours, theirs = by_example(args.program, args.file, picture), expected[picture]
        pairs, left = pair(ours, theirs, args.iou, args.score)
        row = [
            len(ours),
            len(theirs),
            len(pairs),
            min((overlap for overlap, _, _ in pairs), default=1.0),
            max((abs(a[1] - b[1]) for _, a, b in pairs), default=0.0),
            max((abs(x - y) for _, a, b in pairs for x, y in zip(a[2], b[2])), default=0.0),
        ]
        combine = [sum, sum, sum, min, max, max]
        totals = [both(values) for both, values in zip(combine, zip(totals, row))]
        notes = []
        for side, (name, score, _) in left:
            excused = score <= thresholds["score"] + args.slack
            wrong += not excused
            notes.append(f"{side} {name} {score:.3f}{' (at the threshold)' if excused else ''}")
        show(pathlib.Path(picture).name, row, "; ".join(notes))
    show("all", totals, f"{wrong} wrong")
    return 1 if wrong else 0


def show(name, row, notes):
    ours, theirs, pairs, overlap, score, pixels = row
    print(f"{name:<24} {ours:>7} {theirs:>5} {pairs:>6} {overlap:>9.4f} {score:>8.4f} {pixels:>7.2f}  {notes}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
