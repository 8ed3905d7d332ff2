// Instants as text and back: `2026-11-01T00:00:00+01:00` <-> EventTime (RFC 3339, proleptic Gregorian calendar).

package enum RFC3339 {
    /// Any offset, `T` and `Z` in either case, a fraction of any length (cut to microseconds), second 60 as the next
    /// minute's 0. nil for anything else.
    package static func parse(_ text: String) -> EventTime? {
        let bytes = Array(text.utf8)
        func number(_ start: Int, _ count: Int) -> Int? {
            guard start + count <= bytes.count else { return nil }
            var value = 0
            for byte in bytes[start..<start + count] {
                guard byte >= 0x30, byte <= 0x39 else { return nil }
                value = value * 10 + Int(byte - 0x30)
            }
            return value
        }
        func isAt(_ index: Int, _ accepted: String) -> Bool {
            index < bytes.count && accepted.utf8.contains(bytes[index])
        }
        guard let year = number(0, 4), isAt(4, "-"), let month = number(5, 2), isAt(7, "-"), let day = number(8, 2),
            isAt(10, "Tt "), let hour = number(11, 2), isAt(13, ":"), let minute = number(14, 2), isAt(16, ":"),
            let second = number(17, 2), hour < 24, minute < 60, second <= 60,
            (1...12).contains(month), day >= 1, day <= Civil.days(inMonth: month, year: year)
        else { return nil }
        var index = 19
        var fraction = 0
        if isAt(index, ".") {
            index += 1
            var scale = 100_000
            let start = index
            while index < bytes.count, let digit = number(index, 1) {
                fraction += digit * scale
                scale /= 10
                index += 1
            }
            guard index > start else { return nil }
        }
        var offset = 0
        if isAt(index, "Zz") {
            index += 1
        } else {
            guard isAt(index, "+-"), let hours = number(index + 1, 2), isAt(index + 3, ":"),
                let minutes = number(index + 4, 2), hours < 24, minutes < 60
            else { return nil }
            offset = (hours * 3600 + minutes * 60) * (bytes[index] == UInt8(ascii: "-") ? -1 : 1)
            index += 6
        }
        guard index == bytes.count else { return nil }
        let days = Civil.days(year: year, month: month, day: day)
        let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
        return EventTime(microseconds: Int64(seconds) * 1_000_000 + Int64(fraction))
    }

    /// With six digits of fraction and `Z`.
    package static func precise(_ time: EventTime) -> String { format(time, offset: nil, fraction: true) }

    /// In seconds, with the offset (in seconds) of the place; nil is UTC as `Z`.
    package static func format(_ time: EventTime, offset: Int?, fraction: Bool = false) -> String {
        let local = time.microseconds + Int64(offset ?? 0) * 1_000_000
        let seconds = floorDivide(Int(local), 1_000_000)
        let days = floorDivide(seconds, 86_400)
        let date = Civil.date(days: days)
        let clock = seconds - days * 86_400
        var out = "\(padded(date.year, 4))-\(padded(date.month, 2))-\(padded(date.day, 2))"
        out += "T\(padded(clock / 3600, 2)):\(padded(clock / 60 % 60, 2)):\(padded(clock % 60, 2))"
        if fraction { out += "." + padded(Int(local) - seconds * 1_000_000, 6) }
        guard let offset else { return out + "Z" }
        let minutes = abs(offset) / 60
        return out + (offset < 0 ? "-" : "+") + "\(padded(minutes / 60, 2)):\(padded(minutes % 60, 2))"
    }

    private static func padded(_ value: Int, _ width: Int) -> String {
        let digits = String(abs(value))
        return (value < 0 ? "-" : "") + String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
}

/// The calendar: days since 1970-01-01 <-> year, month, day.
package enum Civil {
    // Years are counted from 1 March, so that the leap day comes last and months have a fixed pattern of lengths;
    // 400 such years have 146,097 days.
    package static func days(year: Int, month: Int, day: Int) -> Int {
        let marchYear = month > 2 ? year : year - 1
        let era = floorDivide(marchYear, 400)
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * ((month + 9) % 12) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    package static func date(days: Int) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468
        let era = floorDivide(shifted, 146_097)
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        return (era * 400 + yearOfEra + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
    }

    package static func isLeap(_ year: Int) -> Bool { year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) }

    package static func days(inMonth month: Int, year: Int) -> Int {
        switch month {
        case 2: isLeap(year) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }
}

/// Rounds down below zero too.
package func floorDivide(_ value: Int, _ divisor: Int) -> Int {
    let (quotient, remainder) = value.quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? quotient - 1 : quotient
}
