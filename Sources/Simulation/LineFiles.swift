// Files of lines, read and written in large pieces. A line is bytes without its line end.

import Glibc

/// Reads a file line by line.
final class LineReader {
    let path: String
    /// Of the line last answered, from 1.
    private(set) var number = 0
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var position = 0
    private var isAtEnd = false

    init(path: String) throws(SimulationError) {
        self.path = path
        descriptor = open(path, O_RDONLY | O_CLOEXEC)
        if descriptor < 0 { throw Self.failure("open \(path)", "Name a file that can be read.") }
    }

    deinit { close(descriptor) }

    /// nil at the end of the file.
    func next() throws(SimulationError) -> ArraySlice<UInt8>? {
        var searched = position
        while true {
            if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { position = end + 1 }
                number += 1
                return buffer[position..<end]
            }
            if isAtEnd {
                defer { position = buffer.count }
                if position == buffer.count { return nil }
                number += 1
                return buffer[position...]
            }
            buffer.removeFirst(position)
            position = 0
            searched = buffer.count
            try fill()
        }
    }

    private func fill() throws(SimulationError) {
        let size = 1 << 20
        let old = buffer.count
        buffer.append(contentsOf: repeatElement(0, count: size))
        var count: Int
        repeat {
            count = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress.map { $0 + old }, size) }
        } while count < 0 && errno == EINTR
        buffer.removeLast(size - max(count, 0))
        if count < 0 { throw Self.failure("read \(path)", "Look at the disk.") }
        isAtEnd = count == 0
    }

    fileprivate static func failure(_ tried: String, _ next: String) -> SimulationError {
        SimulationError(code: .file, tried: tried, reason: String(cString: strerror(errno)), next: next)
    }
}

/// Writes a file from its start; `flush` before the end.
final class LineWriter {
    private let path: String
    private let descriptor: Int32
    private var held: [UInt8] = []

    init(path: String) throws(SimulationError) {
        self.path = path
        descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        if descriptor < 0 {
            throw LineReader.failure("create \(path)", "Name a file in a directory that can be written.")
        }
    }

    deinit { close(descriptor) }

    /// `bytes` with their line end.
    func write(_ bytes: [UInt8]) throws(SimulationError) {
        held += bytes
        if held.count >= 1 << 18 { try flush() }
    }

    func flush() throws(SimulationError) {
        var written = 0
        while written < held.count {
            let count = held.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress.map { $0 + written }, held.count - written)
            }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { throw LineReader.failure("write \(path)", "Make room on the disk.") }
            written += count
        }
        held.removeAll(keepingCapacity: true)
    }
}
