#!/usr/bin/env python3
"""What a power cut leaves of a directory: the other side of Tests/CFaults.

    power_cut.py LIVE KEPT SEED [--mixed]

The process that wrote LIVE is dead. LIVE becomes what KEPT has of it; with --mixed each page of a file is by chance
what was synced or what was written since, as a disk may have taken some pages and not others. Prints how many bytes are other
than they were.
"""
import os, pathlib, random, shutil, sys

PAGE = 4096


def content(kept, live, chance, mixed):
    old = kept.read_bytes()
    if not mixed or not live.is_file():
        return old
    new = live.read_bytes()
    size = chance.choice([len(old), len(new)])
    pages = []
    for start in range(0, size, PAGE):
        end = min(start + PAGE, size)
        page = chance.choice([old, new])[start:end]
        pages.append(page + bytes(end - start - len(page)))
    return b"".join(pages)


def difference(data, live):
    before = live.read_bytes() if live.is_file() else b""
    return abs(len(data) - len(before)) + sum(
        data[start:start + PAGE] != before[start:start + PAGE] and
        sum(a != b for a, b in zip(data[start:start + PAGE], before[start:start + PAGE]))
        for start in range(0, min(len(data), len(before)), PAGE))


def main():
    live, kept, seed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    mixed, chance = "--mixed" in sys.argv[4:], random.Random(seed)
    names = sorted(path.relative_to(kept) for path in kept.rglob("*")
                   if path.is_file() and not path.relative_to(kept).parts[0].startswith("."))
    files = [(name, content(kept / name, live / name, chance, mixed)) for name in names]
    print(sum(difference(data, live / name) for name, data in files))
    for path in sorted(live.rglob("*"), reverse=True):
        if not path.is_dir():
            path.unlink()
    for name, data in files:
        (live / name).parent.mkdir(parents=True, exist_ok=True)
        (live / name).write_bytes(data)
    # What is left is on the disk now; numbers of files that are gone may come again.
    shutil.rmtree(kept)
    for path in [kept / name for name, _ in files]:
        path.parent.mkdir(parents=True, exist_ok=True)
    for name, _ in files:
        shutil.copy(live / name, kept / name)
        number = kept / ".inodes" / str(os.stat(live / name).st_ino)
        number.parent.mkdir(exist_ok=True)
        os.link(kept / name, number)


if __name__ == "__main__":
    main()
