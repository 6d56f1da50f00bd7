"""Quantizes a float ONNX file as other tools do, so that their files are measured by the same program as ours.

    python peer.py onnxruntime|nncf MODEL.onnx OUT.onnx --images FOLDER [--size 320] [--count 256]

MODEL.onnx is written by `yolo export --raw`: it ends in the raw maps, so no tool quantizes the decoding of boxes. The description beside it
(MODEL.onnx.json) is copied beside OUT, and `yolo val --weights OUT.onnx` measures it.
"""

import argparse
import pathlib
import shutil
import sys

import numpy
from PIL import Image


def letterboxed(path, size):
    """A picture in the middle of a grey square, [1, 3, size, size] in 0..1."""
    picture = Image.open(path).convert("RGB")
    share = size / max(picture.size)
    width, height = (max(1, round(side * share)) for side in picture.size)
    square = Image.new("RGB", (size, size), (114, 114, 114))
    square.paste(picture.resize((width, height), Image.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return numpy.asarray(square, numpy.float32).transpose(2, 0, 1)[None] / 255


def pictures(folder, count):
    """Up to `count` pictures, evenly spread."""
    endings = {".jpg", ".jpeg", ".png", ".bmp"}
    files = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix.lower() in endings)
    if not files:
        sys.exit(f"{folder}: no picture (.jpg, .png, .bmp) to calibrate on")
    count = min(count, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def onnxruntime(model, out, images):
    """quantize_static: QDQ, int8 weights per channel, uint8 activations, min-max ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(images)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {"images": image}

    quantize_static(
        str(model),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf(model, out, images):
    """Post-training quantization with its defaults."""
    import nncf as tool
    import onnx

    dataset = tool.Dataset(list(images), lambda image: {"images": image})
    made = tool.quantize(onnx.load(str(model)), dataset, subset_size=len(images))
    onnx.save(made, str(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=["onnxruntime", "nncf"])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--count", type=int, default=256)
    given = parser.parse_args()
    images = [letterboxed(path, given.size) for path in pictures(given.images, given.count)]
    try:
        {"onnxruntime": onnxruntime, "nncf": nncf}[given.tool](given.model, given.out, images)
    except ImportError as error:
        sys.exit(f"{given.tool} is not installed for {sys.executable}: {error}")
    shutil.copyfile(f"{given.model}.json", f"{given.out}.json")


if __name__ == "__main__":
    main()
