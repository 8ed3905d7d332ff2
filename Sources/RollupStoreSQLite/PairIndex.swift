// The index on events by the pairs beside their metadata sets: (pair, time) -> the times of events, newest first.
//
// One row a pair would cost the writer more than a tenth of its rate, and rows in one order would be strewn over all of a
// busy hour. So the pairs of a batch are dealt into slices by their numbers, a row each, and rows are kept in runs, in
// the order in which batches come. Events come nearly in order of time, so a run is of a short time, and a range meets
// few runs that it has nothing in. Nothing is rewritten.
//
// The index says too much rather than too little: pairs of events that were deleted and of revisions that answer no more
// find nothing, or an event that the question's condition does not hold for.

import Events
import RollupStore

struct PairIndex {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `runPairs` | pairs | 65,536 | about 1 MiB: a batch changes so much at most, and a month of a million events a day is some 1,000 runs |
    /// | `slices` | of a run | 512 | as many rows of a large batch; a look reads 1/512 of each run |
    /// | `windowTimes` | times | 4,096 | what is gathered before it is handed on: a listing wants few, and memory is bounded |
    /// | `shortestWindow` | µs | 1 s | a pair that many events have is gathered in steps of no less |
    enum Limits {
        static let runPairs: Int64 = 65_536
        static let slices = 512
        static let windowTimes = 4_096
        static let shortestWindow: Int64 = 1_000_000
    }

    /// The number of `retained` for the instant from which every event is in the index.
    static let begin: Int64 = 7

    private static let day: Int64 = 86_400_000_000
    private static let size = 12

    private static func slice(of number: UInt32) -> Int { Int(number) & (Limits.slices - 1) }

    // MARK: Writing

    private var entries: [(number: UInt32, time: Int64)] = []
    private var bytes: [UInt8] = []

    mutating func note(_ number: UInt32, _ time: EventTime) { entries.append((number, time.microseconds)) }

    /// Puts what was noted into the latest run, or into a new one.
    mutating func write(_ connection: Connection) throws(RollupStoreError) {
        defer { entries.removeAll(keepingCapacity: true) }
        guard let first = entries.first else { return }
        var (from, last) = (first.time, first.time)
        // A counting sort by slice.
        var ends = [Int](repeating: 0, count: Limits.slices + 1)
        for entry in entries {
            from = min(from, entry.time)
            last = max(last, entry.time)
            ends[Self.slice(of: entry.number) + 1] += 1
        }
        for slice in 0..<Limits.slices { ends[slice + 1] += ends[slice] }
        var free = ends
        bytes.removeAll(keepingCapacity: true)
        bytes.append(contentsOf: repeatElement(0, count: entries.count * Self.size))
        bytes.withUnsafeMutableBytes { [entries] bytes in
            for entry in entries {
                let slice = Self.slice(of: entry.number)
                let at = free[slice] * Self.size
                free[slice] += 1
                bytes.storeBytes(of: entry.number.littleEndian, toByteOffset: at, as: UInt32.self)
                bytes.storeBytes(of: entry.time.littleEndian, toByteOffset: at + 4, as: Int64.self)
            }
        }
        let (run, part) = try Self.run(for: last, connection)
        let insert = try connection.statement(
            "INSERT INTO event_pairs (run, slice, part, pairs) VALUES (?1, ?2, ?3, ?4)")
        insert.bind(1, run)
        insert.bind(3, part)
        try bytes.withUnsafeBufferPointer { bytes throws(RollupStoreError) in
            for slice in 0..<Limits.slices where ends[slice] < ends[slice + 1] {
                let range = ends[slice] * Self.size..<ends[slice + 1] * Self.size
                insert.bind(2, Int64(slice))
                insert.bindBlob(4, UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[range]))
                try insert.run()
            }
        }
        let widen = try connection.statement(
            """
            INSERT INTO pair_runs (run, pairs, from_us, last_us) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO UPDATE SET pairs = pairs + excluded.pairs, from_us = min(from_us, excluded.from_us),
                last_us = max(last_us, excluded.last_us)
            """)
        widen.bind(1, run)
        widen.bind(2, Int64(entries.count))
        widen.bind(3, from)
        widen.bind(4, last)
        try widen.run()
    }

    /// The run for a batch up to this time, and how many pairs it has.
    private static func run(
        for last: Int64, _ connection: Connection
    ) throws(RollupStoreError) -> (run: Int64, pairs: Int64) {
        let latest = try connection.statement("SELECT run, pairs, last_us FROM pair_runs ORDER BY run DESC LIMIT 1")
        defer { latest.reset() }
        guard try latest.step() else { return (1, 0) }
        let isOpen = latest.integer(1) < Limits.runPairs && last / day <= latest.integer(2) / day
        return isOpen ? (latest.integer(0), latest.integer(1)) : (latest.integer(0) + 1, 0)
    }

    /// Deletes runs that are older than the boundary. What is left of `maxRows`.
    static func expire(
        before boundary: Int64, maxRows: Int64, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        let rows = try connection.statement(
            """
            DELETE FROM event_pairs WHERE (run, slice, part) IN (
                SELECT p.run, p.slice, p.part FROM pair_runs r JOIN event_pairs p ON p.run = r.run
                WHERE r.last_us < ?1 LIMIT ?2)
            """)
        rows.bind(1, boundary)
        rows.bind(2, maxRows)
        try rows.run()
        let left = maxRows - Int64(connection.changes)
        if left > 0 {
            let runs = try connection.statement("DELETE FROM pair_runs WHERE last_us < ?1")
            runs.bind(1, boundary)
            try runs.run()
        }
        return left
    }

    // MARK: Reading

    private struct Run {
        var number: Int64
        var from: Int64
        var last: Int64
    }

    /// Those with pairs of `from <= time < to`.
    private static func runs(from: Int64, to: Int64, _ connection: Connection) throws(RollupStoreError) -> [Run] {
        let rows = try connection.statement(
            "SELECT run, from_us, last_us FROM pair_runs WHERE last_us >= ?1 AND from_us < ?2")
        rows.bind(1, from)
        rows.bind(2, to)
        defer { rows.reset() }
        var runs: [Run] = []
        while try rows.step() {
            runs.append(Run(number: rows.integer(0), from: rows.integer(1), last: rows.integer(2)))
        }
        return runs
    }

    /// The times `from <= time < to` that a run has for one of the numbers, in no order, until `body` answers false.
    private static func look(
        _ run: Run, _ numbers: Set<UInt32>, from: Int64, to: Int64, _ rows: Statement, _ body: (Int64) -> Bool
    ) throws(RollupStoreError) {
        rows.bind(1, run.number)
        for slice in Set(numbers.map(slice)) {
            rows.bind(2, Int64(slice))
            defer { rows.reset() }
            while try rows.step() {
                let pairs = rows.bytes(0)
                for at in stride(from: 0, to: pairs.count - size + 1, by: size) {
                    let number = UInt32(littleEndian: pairs.loadUnaligned(fromByteOffset: at, as: UInt32.self))
                    guard numbers.contains(number) else { continue }
                    let time = Int64(littleEndian: pairs.loadUnaligned(fromByteOffset: at + 4, as: Int64.self))
                    if time >= from, time < to, !body(time) { return }
                }
            }
        }
    }

    private static func rows(_ connection: Connection) throws(RollupStoreError) -> Statement {
        try connection.statement("SELECT pairs FROM event_pairs WHERE run = ?1 AND slice = ?2")
    }

    /// The times of events that may have one of the pairs, the latest first, each once, until `body` answers false;
    /// then the answer is false, too.
    static func scan(
        from: Int64, to: Int64, having: [UInt32], _ connection: Connection, _ body: (Int64) throws -> Bool
    ) throws -> Bool {
        let runs = try runs(from: from, to: to, connection)
        guard from < to, let last = runs.map(\.last).max(), let first = runs.map(\.from).min() else { return true }
        let numbers = Set(having + [EventPairs.unsaid])
        let rows = try rows(connection)
        let from = max(from, first)
        var end = min(to, last + 1)
        var width: Int64 = 3_600_000_000
        while end > from {
            let begin = end - from > width ? end - width : from
            var times: [Int64] = []
            for run in runs where run.last >= begin && run.from < end {
                try look(run, numbers, from: begin, to: end, rows) {
                    times.append($0)
                    return true
                }
            }
            times.sort(by: >)
            var before: Int64?
            for time in times where time != before {
                if try !body(time) { return false }
                before = time
            }
            end = begin
            if times.count > Limits.windowTimes {
                width = max(Limits.shortestWindow, width / 4)
            } else if width < .max / 2 {
                width *= 2
            }
        }
        return true
    }

    static func count(
        from: Int64, to: Int64, having: [UInt32], atMost limit: Int, _ connection: Connection
    ) throws(RollupStoreError) -> Int {
        let numbers = Set(having + [EventPairs.unsaid])
        let rows = try rows(connection)
        var count = 0
        for run in try runs(from: from, to: to, connection) where count < limit {
            try look(run, numbers, from: from, to: to, rows) { _ in
                count += 1
                return count < limit
            }
        }
        return count
    }
}
