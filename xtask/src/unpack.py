"""Unpacks the wanted members of wheels: unpack.py TARGET WHEEL_FOLDER PREFIX=FOLDER...

A member whose name starts with PREFIX goes to FOLDER of the target, followed by what its name has after the last slash of PREFIX.
"""
import pathlib
import shutil
import sys
import zipfile

target, wheels, *rules = sys.argv[1:]
rules = [rule.split("=", 1) for rule in rules]
used = set()
for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            rule = next((rule for rule in rules if member.filename.startswith(rule[0])), None)
            if rule is None or member.is_dir():
                continue
            prefix, folder = rule
            used.add(prefix)
            path = pathlib.Path(target, folder, member.filename[prefix.rfind("/") + 1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
missing = [prefix for prefix, _ in rules if prefix not in used]
if missing:
    sys.exit("the wheels have nothing named " + ", ".join(missing))
