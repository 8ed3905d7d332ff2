import Glibc
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing

/// A journal directory of one test, removed with it.
final class Fixture: Sendable {
    let directory: String
    let metrics = JournalMetrics()
    let lines = Mutex<[LogLine]>([])

    init() throws {
        var template = Array("/tmp/millrace-journal-XXXXXX".utf8CString)
        let made = template.withUnsafeMutableBufferPointer { $0.baseAddress.flatMap(mkdtemp) }
        directory = String(cString: try #require(made)) + "/journal"
    }

    deinit { removeTree(String(directory.dropLast("/journal".count))) }

    var log: Log {
        let silent = Glibc.open("/dev/null", O_WRONLY)
        return Log(role: "test", descriptor: silent) { [self] line in lines.withLock { $0.append(line) } }
    }

    func codes() -> [String] { lines.withLock { $0.map(\.code) } }

    func journal(_ options: JournalOptions = JournalOptions(fsync: .never, segmentSize: 1 << 20)) throws -> Journal {
        try Journal(directory: directory, options: options, log: log, metrics: metrics)
    }

    func reader() -> JournalLogReader { JournalLogReader(directory: directory, log: log, metrics: metrics) }

    var lane: LaneDirectory { LaneDirectory(journal: directory, number: 0) }

    func segmentFiles() -> [String] {
        names(lane.path).filter { $0.hasSuffix(".segment") }.sorted().map { "\(lane.path)/\($0)" }
    }
}

func names(_ path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var found: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name.0) { String(cString: $0) }
        if name != "." && name != ".." { found.append(name) }
    }
    return found
}

func removeTree(_ path: String) {
    for name in names(path) {
        let child = "\(path)/\(name)"
        if unlink(child) != 0 { removeTree(child) }
    }
    rmdir(path)
}

/// A file as it stands, read from its end: while another appends to it, nothing in the copy is newer than what lies before.
func contents(_ path: String) -> [UInt8] {
    let file = Glibc.open(path, O_RDONLY)
    guard file >= 0 else { return [] }
    defer { close(file) }
    var facts = stat()
    fstat(file, &facts)
    let count = Int(facts.st_size)
    guard count > 0, let memory = mmap(nil, count, PROT_READ, MAP_SHARED, file, 0), memory != MAP_FAILED else {
        return []
    }
    defer { munmap(memory, count) }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        var at = count
        while at % 8 > 0 {
            at -= 1
            buffer[at] = memory.load(fromByteOffset: at, as: UInt8.self)
        }
        // A word at a time, as the appender writes its marks.
        let out = UnsafeMutableRawPointer(buffer.baseAddress)
        while at > 0 {
            at -= 8
            out?.storeBytes(of: memory.load(fromByteOffset: at, as: UInt64.self), toByteOffset: at, as: UInt64.self)
        }
        initialized = count
    }
}

func replace(_ path: String, _ bytes: [UInt8]) throws {
    let file = Glibc.open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    try #require(file >= 0)
    defer { close(file) }
    let written = bytes.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
    #expect(written == bytes.count)
}

func overwrite(_ path: String, at position: Int, _ bytes: [UInt8]) throws {
    let file = Glibc.open(path, O_WRONLY)
    try #require(file >= 0)
    defer { close(file) }
    let written = bytes.withUnsafeBytes { pwrite(file, $0.baseAddress, $0.count, off_t(position)) }
    #expect(written == bytes.count)
}

func value(_ number: Int64, size: Int = 100) -> [UInt8] {
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number &* 31), count: max(8, size))
    for index in 0..<8 { bytes[index] = UInt8(truncatingIfNeeded: number >> (8 * Int64(index))) }
    return bytes
}

extension JournalLane {
    @discardableResult
    func append(_ number: Int64, size: Int = 100, kind: RecordKind = .event) -> Appended {
        let key = [UInt8]("key-\(number)".utf8)
        return key.withUnsafeBytes { key in
            value(number, size: size).withUnsafeBytes { append(kind: kind, key: key, value: $0) }
        }
    }
}

/// What a reader was given, record by record.
struct Read: Equatable {
    var offset: Int64
    var number: Int64
    var isCorrupt: Bool

    static func all(_ chunk: RecordChunk) -> [Read] {
        chunk.records.map { slot in
            let bytes = chunk.bytes[Int(slot.valueStart)..<Int(slot.valueStart) + Int(slot.valueCount)]
            let number = bytes.prefix(8).reversed().reduce(Int64(0)) { $0 << 8 | Int64($1) }
            let key = chunk.bytes[Int(slot.keyStart)..<Int(slot.keyStart) + Int(slot.keyCount)]
            let sound = slot.isCorrupt || Array("key-\(number)".utf8) == Array(key)
            return Read(offset: slot.offset.value, number: sound ? number : -1, isCorrupt: slot.isCorrupt)
        }
    }
}

/// Reads lane 0 from `next` until `count` records came or nothing more does.
func readAll(
    _ reader: inout JournalLogReader, from next: Int64 = 0, count: Int = .max, seconds: Int = 20
) throws -> (records: [Read], gaps: [Range<Int64>], truncated: Int64?) {
    var records: [Read] = []
    var gaps: [Range<Int64>] = []
    let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
    while records.count < count {
        // A reading that is cut short must not pass for one that found the end.
        try #require(ContinuousClock.now < deadline, "after \(seconds) s only \(records.count) records were read")
        switch try reader.poll(maxRecords: 5_000, maxBytes: 1 << 20, timeoutMilliseconds: 30) {
        case .discovered(let partitions): try reader.start(partitions.map { ($0, Offset(next)) })
        case .records(let chunk): records += Read.all(chunk)
        case .gap(_, let from, let to): gaps.append(from.value..<to.value)
        case .truncated(_, _, let end): return (records, gaps, end.value)
        case .revoked: break
        case .idle: if count == .max { return (records, gaps, nil) }
        }
    }
    return (records, gaps, nil)
}
