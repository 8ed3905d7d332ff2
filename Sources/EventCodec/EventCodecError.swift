// Why a record's value is not an event. Each is the record's own fault: it goes to the dead letters, never retried.

package struct EventCodecError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Closed set, a metric label.
    package enum Code: String, Sendable, CaseIterable {
        /// The value ends inside a field.
        case truncated
        /// A varint of more than 64 bits.
        case overlongVarint = "overlong_varint"
        /// A field number outside 1 ..< 2^29.
        case badFieldNumber = "bad_field_number"
        /// A wire type that proto3 does not write (groups, 6, 7), or another one than the known field has.
        case badWireType = "bad_wire_type"
        /// The id is missing or not 16 bytes.
        case badID = "bad_id"
        /// An enumeration's number that this program does not know.
        case unknownEnum = "unknown_enum"
        /// A number beyond what the field can hold.
        case outOfRange = "out_of_range"
        /// A text field that is not UTF-8.
        case invalidText = "invalid_text"
        /// More bytes than ranges can address (4 GiB).
        case tooLarge = "too_large"
    }

    package var code: Code
    /// Bytes from the start of the value.
    package var position: Int

    package init(code: Code, position: Int) {
        self.code = code
        self.position = position
    }

    package var description: String { "the record's value does not decode: \(code.rawValue) at byte \(position)" }
}
