"""Joins what the parts found: `summary.py WORK OUT [--print]` writes OUT/gpu.json and, at the end, prints the table."""

import json
import pathlib
import sys

ORDER = "0abcdefghnt"


def main():
    work, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    parts = []
    for name in ORDER:
        path = work / f"{name}.json"
        status = work / f"{name}.status"
        if not status.exists():
            continue
        part = {"part": name, "rows": [], "failures": []}
        if path.exists():
            try:
                part = json.loads(path.read_text())
            except ValueError:
                part["failures"] = ["its results are cut off"]
        part["status"] = status.read_text().strip()
        parts.append(part)
    (out / "gpu.json").write_text(json.dumps({"parts": parts}, indent=1))
    if "--print" not in sys.argv:
        return
    print("\n=== GPU check ===")
    for part in parts:
        print(f"[{part['part']}] {part['status']}, {part.get('seconds', 0):.0f} s")
        for row in part["rows"]:
            print(f"    {row['what']}: {row['value']}")
        for failure in part["failures"]:
            print(f"    FAILED {failure[:300]}")


if __name__ == "__main__":
    main()
