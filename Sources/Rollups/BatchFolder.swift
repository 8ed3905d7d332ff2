// Normalized events of one batch -> the batch's series and its RollupDelta.
//
// Each text of a dimension is a small number, each combination of numbers a series, each (minute, series) a row of
// sums. Sketch bins are noted one by one and gathered in `finish`, by a counting sort over rows. Hours are sums of
// minutes and days sums of hours, so the grains agree by construction. Rollups by entity are series of their own, which
// begin with hours. Buffers, and the texts seen, are kept from batch to batch.

package import EventCodec
import Events

package struct BatchFolder {
    private struct Combination: Equatable {
        var workspace: Int32
        var apiKey: Int32
        var provider: Int32
        var operation: Int32
        var model: Int32
        var set: Int32
        var outcome: Outcome
        var statusClass: UInt8
        /// `set` is an `EntitySet`.
        var isOfEntity = false

        var hash: UInt64 {
            var hash = Hash()
            hash.combine(UInt64(UInt32(workspace)) << 32 | UInt64(UInt32(apiKey)))
            hash.combine(UInt64(UInt32(provider)) << 32 | UInt64(UInt32(operation)))
            hash.combine(UInt64(UInt32(model)) << 32 | UInt64(UInt32(set)))
            hash.combine(UInt64(outcome.rawValue) << 8 | UInt64(statusClass) | (isOfEntity ? 1 << 16 : 0))
            return hash.state
        }
    }

    private struct RowKey: Equatable {
        var bucket: Int32
        var series: Int32
    }

    /// One value of a sketch: the row, and kind and bin as one number in the order of `SketchBin`s.
    private struct Note {
        var row: Int32
        var code: Int32
    }

    /// Beyond these, the texts kept from earlier batches are forgotten.
    private static let textsKept = 65_536
    private static let textSizeKept = 16 << 20

    private var texts = ByteInterner()
    private var strings: [String] = []
    private var sets = ByteInterner()
    private var setTexts: [[UInt8]] = []

    private var seriesIndex = HashIndex()
    private var combinations: [Combination] = []
    private var rowIndex = HashIndex()
    private var rowKeys: [RowKey] = []
    private var measures: [Measures] = []
    private var notes: [Note] = []

    package init() {}

    /// Adds an event. `bytes` is the buffer its ranges point into, `set` its `NormalizedMetadata.set`. The answer is
    /// the event's index into the batch's series.
    package mutating func add(_ fields: EventFields, bytes: UnsafeRawBufferPointer, set: [UInt8]) -> Int32 {
        let series = series(
            of: Combination(
                workspace: text(fields.workspace, bytes), apiKey: text(fields.apiKey, bytes),
                provider: text(fields.provider, bytes), operation: text(fields.operation, bytes),
                model: text(fields.model, bytes), set: self.set(set), outcome: fields.outcome,
                statusClass: UInt8(clamping: fields.status / 100)))
        add(fields, series: series)
        return series
    }

    /// The index of a series in this batch, for events that have been folded before.
    package mutating func series(_ key: SeriesKey) -> Int32 {
        series(
            of: Combination(
                workspace: text(key.workspace), apiKey: text(key.apiKey), provider: text(key.provider),
                operation: text(key.operation), model: text(key.model), set: set(key.set), outcome: key.outcome,
                statusClass: key.statusClass))
    }

    /// Adds an event of a series of this batch to the rollup of an entity, and answers that rollup's series. Of the
    /// event's dimensions it has the workspace, the outcome and the status class.
    package mutating func add(_ fields: EventFields, of series: Int32, entity set: [UInt8]) -> Int32 {
        var combination = combinations[Int(series)]
        let none = text("")
        (combination.apiKey, combination.provider, combination.operation, combination.model) = (none, none, none, none)
        (combination.set, combination.isOfEntity) = (self.set(set), true)
        let entity = self.series(of: combination)
        add(fields, to: RowKey(bucket: Grain.hour.bucket(of: fields.time), series: entity))
        return entity
    }

    /// Adds an event of a series of this batch; of `fields` only the time and what is measured count.
    package mutating func add(_ fields: EventFields, series: Int32) {
        add(fields, to: RowKey(bucket: Grain.minute.bucket(of: fields.time), series: series))
    }

    private mutating func add(_ fields: EventFields, to key: RowKey) {
        let row = row(key)
        measures[row] += Measures(of: fields)
        note(row, .latency, fields.latencyMicroseconds)
        note(row, .firstToken, fields.firstTokenMicroseconds)
        note(row, .overhead, fields.overheadMicroseconds)
    }

    /// Ends the batch: its series, its rows of all grains. The next `add` begins another.
    package mutating func finish() -> (series: [SeriesKey], delta: RollupDelta) {
        let (minutes, entityHours) = finestRows()
        let delta = RollupDelta(minutes: minutes, entityHours: entityHours)
        let series = combinations.map { combination in
            SeriesKey(
                workspace: strings[Int(combination.workspace)], apiKey: strings[Int(combination.apiKey)],
                provider: strings[Int(combination.provider)], operation: strings[Int(combination.operation)],
                model: strings[Int(combination.model)], outcome: combination.outcome,
                statusClass: combination.statusClass, set: setTexts[Int(combination.set)])
        }
        reset()
        return (series, delta)
    }

    private mutating func reset() {
        seriesIndex.removeAll()
        combinations.removeAll(keepingCapacity: true)
        rowIndex.removeAll()
        rowKeys.removeAll(keepingCapacity: true)
        measures.removeAll(keepingCapacity: true)
        notes.removeAll(keepingCapacity: true)
        if texts.count > Self.textsKept || texts.size > Self.textSizeKept {
            texts.removeAll()
            strings.removeAll(keepingCapacity: true)
        }
        if sets.count > Self.textsKept || sets.size > Self.textSizeKept {
            sets.removeAll()
            setTexts.removeAll(keepingCapacity: true)
        }
    }

    // MARK: Numbers

    private mutating func text(_ range: ByteRange, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        let number = texts.intern(UnsafeRawBufferPointer(rebasing: bytes[range.range]))
        if Int(number) == strings.count { strings.append(String(decoding: texts[number], as: UTF8.self)) }
        return number
    }

    private mutating func text(_ text: String) -> Int32 {
        var text = text
        let number = text.withUTF8 { texts.intern(UnsafeRawBufferPointer($0)) }
        if Int(number) == strings.count { strings.append(text) }
        return number
    }

    private mutating func set(_ set: [UInt8]) -> Int32 {
        let number = set.withUnsafeBytes { sets.intern($0) }
        if Int(number) == setTexts.count { setTexts.append(set) }
        return number
    }

    private mutating func series(of combination: Combination) -> Int32 {
        let hash = combination.hash
        var probe = seriesIndex.firstProbe(hash)
        while let position = seriesIndex.next(hash, &probe) {
            if combinations[position] == combination { return Int32(position) }
            seriesIndex.advance(&probe)
        }
        combinations.append(combination)
        return Int32(seriesIndex.insert(hash, probe))
    }

    private mutating func row(_ key: RowKey) -> Int {
        var hash = Hash()
        hash.combine(UInt64(UInt32(bitPattern: key.bucket)) << 32 | UInt64(UInt32(key.series)))
        var probe = rowIndex.firstProbe(hash.state)
        while let position = rowIndex.next(hash.state, &probe) {
            if rowKeys[position] == key { return position }
            rowIndex.advance(&probe)
        }
        rowKeys.append(key)
        measures.append(Measures())
        return rowIndex.insert(hash.state, probe)
    }

    private mutating func note(_ row: Int, _ kind: SketchKind, _ value: UInt64?) {
        guard let value else { return }
        let code = Int32(kind.rawValue) << 16 | (Int32(LatencySketch.bin(of: value)) - Int32(Int16.min))
        notes.append(Note(row: Int32(row), code: code))
    }

    // MARK: Rows

    private func finestRows() -> (minutes: [RollupDelta.Row], entityHours: [RollupDelta.Row]) {
        // Where each row's codes begin: a counting sort.
        var starts = [Int](repeating: 0, count: rowKeys.count + 1)
        for note in notes { starts[Int(note.row) + 1] += 1 }
        for row in rowKeys.indices { starts[row + 1] += starts[row] }
        var codes = [Int32](repeating: 0, count: notes.count)
        var free = starts
        for note in notes {
            codes[free[Int(note.row)]] = note.code
            free[Int(note.row)] += 1
        }
        let order = rowKeys.indices.sorted {
            (rowKeys[$0].bucket, rowKeys[$0].series) < (rowKeys[$1].bucket, rowKeys[$1].series)
        }
        var (minutes, entityHours): ([RollupDelta.Row], [RollupDelta.Row]) = ([], [])
        for row in order {
            let range = starts[row]..<starts[row + 1]
            codes.withUnsafeMutableBufferPointer { codes in
                var row = UnsafeMutableBufferPointer(rebasing: codes[range])
                row.sort()
            }
            func made(_ grain: Grain) -> RollupDelta.Row {
                RollupDelta.Row(
                    grain: grain, bucket: rowKeys[row].bucket, series: rowKeys[row].series, measures: measures[row],
                    bins: Self.bins(codes[range]))
            }
            if combinations[Int(rowKeys[row].series)].isOfEntity {
                entityHours.append(made(.entityHour))
            } else {
                minutes.append(made(.minute))
            }
        }
        return (minutes, entityHours)
    }

    /// Sorted codes, equal ones counted.
    private static func bins(_ codes: ArraySlice<Int32>) -> [SketchBin] {
        var bins: [SketchBin] = []
        var last: Int32 = -1
        for code in codes {
            if code == last {
                bins[bins.count - 1].count += 1
                continue
            }
            last = code
            guard let kind = SketchKind(rawValue: UInt8(code >> 16)) else { continue }
            let index = Int16((code & 0xFFFF) + Int32(Int16.min))
            bins.append(SketchBin(kind: kind, index: index, count: 1))
        }
        return bins
    }
}
