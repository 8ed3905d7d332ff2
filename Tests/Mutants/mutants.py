#!/usr/bin/env python3
"""Breaks the consumer on purpose, one way at a time, and demands that a test notices.

    mutants.py [--minutes N] [NAME ...]       all of them, or those named

Works on a copy of the tree in .build/mutants, with a build directory of its own that is kept, so that a second run
builds only what changed; of the tests it has those that the mutants need. Runs at the lowest priority. The tests named
with a mutant must pass on the unchanged copy first. Prints a table; ends with status 1 where a mutant survives, with 2
where one no longer fits the sources, and with 3 where it is not done after N minutes (60).
"""
import argparse, os, pathlib, shutil, signal, subprocess, sys, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = ROOT / ".build" / "mutants"
COPY = HOME / "tree"
SWIFT = shutil.which("swift") or "/opt/swift/usr/bin/swift"
SUITES = ["Fault", "Store"]
ONLY_THESE = "\npackage.targets.removeAll { $0.isTest && ![%s].contains($0.name) }\n" % ", ".join(
    f'"{suite}Tests"' for suite in SUITES)

WRITER = "Sources/RollupStoreSQLite/SQLiteRollupWriter.swift"
CONSUMER = "Sources/Ingest/Consumer.swift"
STEPS = r"^FaultTests\.FaultSuite/ProcessFaultTests/killedAtEachStep"
COPIES = r"^FaultTests\.FaultSuite/ProcessFaultTests/copies"
ZOMBIE = r"^StoreTests\.StoreContractTests/aZombiesBatchFailsWhole"

APPLY = "            let result = try transaction { connection throws(RollupStoreError) in try write(batch, connection) }\n"
MOVE = "        for range in batch.ranges { try moveOffset(range, connection) }\n"
MOVE_ALONE = ("            try transaction { connection throws(RollupStoreError) in\n"
              "                for range in batch.ranges { try moveOffset(range, connection) }\n"
              "            }\n")


def replaced(text, old, new):
    if text.count(old) != 1:
        raise LookupError(f"stands {text.count(old)} times: {old.strip().splitlines()[0]}")
    return text.replace(old, new)


def offset_before_apply(text):
    return replaced(replaced(text, MOVE, ""), APPLY, MOVE_ALONE + APPLY)


def offset_outside(text):
    text = replaced(text, MOVE, "")
    committed = '            failPoint("committed")\n'
    return replaced(text, committed, committed + MOVE_ALONE)


def duplicates_counted(text):
    return replaced(text, "                    if connection.changes == 1 {\n",
                    "                    if connection.changes >= 0 {\n")


def epoch_ignored(text):
    return replaced(text, "AND next_offset = ?4 AND epoch = ?5", "AND next_offset = ?4")


def dead_letter_late(text):
    start = text.index("        if let publish = options.publishDeadLetters")
    end = text.index("        let began = ContinuousClock.now\n        guard let result = try persist")
    block = text[start:end]
    applied = '        failPoint("applied")\n'
    return replaced(text[:start] + text[end:], applied, applied + block)


MUTANTS = [
    ("offset-before-apply", "the offset is committed before the batch", WRITER, offset_before_apply, STEPS),
    ("offset-outside", "the offset moves outside the batch's transaction", WRITER, offset_outside, STEPS),
    ("duplicates-counted", "copies of an event are counted", WRITER, duplicates_counted, COPIES),
    ("epoch-ignored", "a zombie's epoch is not looked at", WRITER, epoch_ignored, ZOMBIE),
    ("dead-letter-late", "dead letters are published after the commit", CONSUMER, dead_letter_late, STEPS),
]


def synchronize():
    """The copy is the tree, file by file; what did not change keeps its time, so that it is not built again."""
    wanted = {pathlib.Path("Package.swift")}
    manifest = (ROOT / "Package.swift").read_text() + ONLY_THESE
    COPY.mkdir(parents=True, exist_ok=True)
    if not (COPY / "Package.swift").exists() or (COPY / "Package.swift").read_text() != manifest:
        (COPY / "Package.swift").write_text(manifest)
    for part in ["Sources", "schemas", "Tests/CFaults", "Tests/Support", *(f"Tests/{suite}Tests" for suite in SUITES)]:
        for path in (p for p in (ROOT / part).rglob("*") if p.is_file()):
            name = path.relative_to(ROOT)
            wanted.add(name)
            target = COPY / name
            if not target.is_file() or target.is_symlink() or target.read_bytes() != path.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                shutil.copy(path, target)
    for path in [p for p in COPY.rglob("*") if p.is_symlink() or p.is_file()]:
        if path.relative_to(COPY) not in wanted and ".build" not in path.parts[len(COPY.parts):]:
            path.unlink()


def swift(*words, log):
    environment = dict(os.environ)
    environment.setdefault("MILLRACE_TEST_KAFKA", str(ROOT / "../shared/kafka/kafka"))
    # The mutants are of the consumer and of SQLite's writer.
    environment |= {"MILLRACE_TEST_SKIP": "postgresql,clickhouse"}
    command = ["nice", "-n", "19", SWIFT, *words, "--package-path", COPY, "--scratch-path", HOME / "build"]
    with open(log, "w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                                 start_new_session=True) as process:
        try:
            return process.wait(timeout=max(1, DEADLINE - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            print(f"mutants: not done in time, in {' '.join(words)}; see {log}, or give it more --minutes",
                  file=sys.stderr)
            sys.exit(3)


def build(name):
    log = HOME / f"{name}.build.log"
    if swift("build", "--build-tests", log=log) != 0:
        sys.exit(f"mutants: {name} does not build; see {log}")


def passes(name, tests):
    """True, or the number of failed tests."""
    log = HOME / f"{name}.test.log"
    status = swift("test", "--skip-build", "--disable-xctest", "--filter", tests, log=log)
    text = log.read_text(errors="replace")
    if status == 0 and " passed after" not in text:
        sys.exit(f"mutants: no test matches {tests}; see {log}")
    return True if status == 0 else max(1, text.count("recorded an issue"))


def main():
    global DEADLINE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    DEADLINE = time.monotonic() + arguments.minutes * 60
    chosen = [m for m in MUTANTS if not arguments.names or m[0] in arguments.names]
    unknown = set(arguments.names) - {m[0] for m in MUTANTS}
    if unknown:
        sys.exit(f"mutants: no such mutant: {', '.join(sorted(unknown))}; there are {', '.join(m[0] for m in MUTANTS)}")
    HOME.mkdir(parents=True, exist_ok=True)
    synchronize()
    build("unchanged")
    for tests in sorted({m[4] for m in chosen}):
        if passes("unchanged", tests) is not True:
            sys.exit(f"mutants: {tests} fails without a mutant; see {HOME / 'unchanged.test.log'}")
    rows, survivors = [], 0
    for name, what, file, change, tests in chosen:
        path = COPY / file
        original = path.read_text()
        try:
            path.write_text(change(original))
        except (LookupError, ValueError) as error:
            print(f"mutants: {name} no longer fits {file}: {error}", file=sys.stderr)
            sys.exit(2)
        started = time.monotonic()
        try:
            build(name)
            outcome = passes(name, tests)
        finally:
            path.write_text(original)
        survivors += outcome is True
        found = "SURVIVES" if outcome is True else f"found, {outcome} failures"
        rows.append((name, what, found, tests.rsplit("/", 1)[1], f"{time.monotonic() - started:.0f} s"))
        print(f"{name}: {found}", file=sys.stderr)
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
