// Columns of one insert -> a block in ClickHouse's Native format: the cheapest to take in, a third of RowBinary's cost.
//
// A block is the numbers of columns and rows as varints, then each column: its name and type as strings, then its values.
// Numbers are little-endian; a string is its length as a varint and its bytes; an array column is the running ends of its
// arrays, then all elements; a nullable column is one byte a row (1: null), then a value for each row.

import Events
import Rollups

struct NativeBlock {
    private(set) var names: [String] = []
    private var columns: [UInt8] = []
    let rows: Int

    init(rows: Int, reserve: Int = 0) {
        self.rows = rows
        columns.reserveCapacity(reserve)
    }

    var bytes: [UInt8] {
        var all: [UInt8] = []
        all.reserveCapacity(columns.count + 16)
        Self.varint(UInt64(names.count), &all)
        Self.varint(UInt64(rows), &all)
        all += columns
        return all
    }

    private mutating func begin(_ name: String, _ type: String) {
        names.append(name)
        Self.string(Array(name.utf8), &columns)
        Self.string(Array(type.utf8), &columns)
    }

    private static func typeName<Value: FixedWidthInteger>(_: Value.Type) -> String {
        "\(Value.isSigned ? "Int" : "UInt")\(Value.bitWidth)"
    }

    mutating func integers<Value: FixedWidthInteger>(_ name: String, _ value: (Int) -> Value) {
        begin(name, Self.typeName(Value.self))
        append(rows, value)
    }

    mutating func constant<Value: FixedWidthInteger>(_ name: String, _ value: Value) {
        integers(name) { _ in value }
    }

    mutating func optionalIntegers<Value: FixedWidthInteger>(_ name: String, _ value: (Int) -> Value?) {
        begin(name, "Nullable(\(Self.typeName(Value.self)))")
        append(rows) { value($0) == nil ? 1 as UInt8 : 0 }
        append(rows) { value($0) ?? 0 }
    }

    /// Values whose bytes stand in memory already.
    mutating func strings(_ name: String, _ value: (Int) -> UnsafeRawBufferPointer) {
        begin(name, "String")
        for row in 0..<rows {
            let bytes = value(row)
            if bytes.count < 0x80 {
                columns.append(UInt8(truncatingIfNeeded: bytes.count))
            } else {
                Self.varint(UInt64(bytes.count), &columns)
            }
            columns.append(contentsOf: bytes)
        }
    }

    mutating func strings(_ name: String, _ value: (Int) -> [UInt8]) {
        begin(name, "String")
        for row in 0..<rows { Self.string(value(row), &columns) }
    }

    /// 16 bytes a row, as two numbers, the first the higher, in the order of bytes.
    mutating func pairs(_ name: String, _ type: String, _ value: (Int) -> (UInt64, UInt64)) {
        begin(name, type)
        append(rows * 2) { index in
            let pair = value(index / 2)
            return (index % 2 == 0 ? pair.0 : pair.1).bigEndian
        }
    }

    mutating func arrays<Value: FixedWidthInteger, List: RandomAccessCollection>(
        _ name: String, _ list: (Int) -> List, _ value: (List.Element) -> Value
    ) where List.Index == Int {
        begin(name, "Array(\(Self.typeName(Value.self)))")
        ends { list($0).count }
        for row in 0..<rows {
            let elements = list(row)
            let first = elements.startIndex
            append(elements.count) { value(elements[first + $0]) }
        }
    }

    /// One row of arrays.
    mutating func array<Value: FixedWidthInteger>(_ name: String, _ values: [Value]) {
        arrays(name, { _ in values }) { $0 }
    }

    mutating func array(_ name: String, optional values: [Int64?]) {
        begin(name, "Array(Nullable(Int64))")
        ends { _ in values.count }
        append(values.count) { values[$0] == nil ? 1 as UInt8 : 0 }
        append(values.count) { values[$0] ?? 0 }
    }

    mutating func array(_ name: String, _ values: [String]) {
        begin(name, "Array(String)")
        ends { _ in values.count }
        for value in values { Self.string(Array(value.utf8), &columns) }
    }

    mutating func array(_ name: String, _ values: [EventID]) {
        begin(name, "Array(FixedString(16))")
        ends { _ in values.count }
        append(values.count * 2) { index in
            let id = values[index / 2]
            return (index % 2 == 0 ? id.high : id.low).bigEndian
        }
    }

    private mutating func ends(_ count: (Int) -> Int) {
        var end: UInt64 = 0
        append(rows) { row in
            end += UInt64(count(row))
            return end
        }
    }

    @inline(__always)
    private mutating func append<Value: FixedWidthInteger>(_ count: Int, _ value: (Int) -> Value) {
        let start = columns.count
        let size = MemoryLayout<Value>.size
        columns.append(contentsOf: repeatElement(0, count: count * size))
        columns.withUnsafeMutableBytes { bytes in
            for index in 0..<count {
                bytes.storeBytes(of: value(index).littleEndian, toByteOffset: start + index * size, as: Value.self)
            }
        }
    }

    private static func string(_ bytes: [UInt8], _ out: inout [UInt8]) {
        varint(UInt64(bytes.count), &out)
        out += bytes
    }

    private static func varint(_ value: UInt64, _ out: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            out.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        out.append(UInt8(truncatingIfNeeded: rest))
    }
}
