// A time zone: the bytes of a TZif file (RFC 8536) -> the offset from UTC at any instant, and when it changes.
//
// Times after the file's last transition follow its footer, a POSIX TZ text such as `CET-1CEST,M3.5.0,M10.5.0/3`.
// A file that is damaged in any way yields nil: there is no half-read zone.

import Events

package struct TimeZoneRules: Sendable {
    package let name: String
    /// Ascending: from this second on, this offset (seconds east of UTC).
    private var changes: [(at: Int, offset: Int)]
    private var firstOffset: Int
    private var footer: Footer?

    package static let utc = TimeZoneRules(name: "UTC", changes: [], firstOffset: 0, footer: nil)

    private init(name: String, changes: [(at: Int, offset: Int)], firstOffset: Int, footer: Footer?) {
        self.name = name
        self.changes = changes
        self.firstOffset = firstOffset
        self.footer = footer
    }

    /// Whether a name may be looked for among the zone files: `Area/City`, nothing that leaves the folder.
    package static func isPlausible(_ name: String) -> Bool {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        return name.utf8.count <= 64
            && parts.allSatisfy { part in
                !part.isEmpty && part.utf8.first != UInt8(ascii: ".")
                    && part.utf8.allSatisfy { byte in
                        switch byte {
                        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                        default: "_+-".utf8.contains(byte)
                        }
                    }
            }
    }

    package init?(name: String, file: [UInt8]) {
        var reader = Reader(bytes: file)
        guard let old = reader.header() else { return nil }
        var header = old
        var wide = false
        if old.version >= UInt8(ascii: "2") {
            // The first block repeats the data in 32 bits for old readers.
            reader.index += old.size(timeSize: 4)
            guard let new = reader.header() else { return nil }
            header = new
            wide = true
        }
        guard header.types > 0, reader.index + header.size(timeSize: wide ? 8 : 4) <= file.count else { return nil }
        let times = (0..<header.times).map { _ in wide ? reader.integer(8) : reader.integer(4) }
        let kinds = (0..<header.times).map { _ in reader.integer(1) & 0xFF }
        let offsets = (0..<header.types).map { _ in
            let offset = reader.integer(4)
            reader.index += 2
            return offset
        }
        guard kinds.allSatisfy({ $0 < offsets.count }), offsets.allSatisfy({ abs($0) < 100_000 }),
            zip(times, times.dropFirst()).allSatisfy({ $0 < $1 })
        else { return nil }
        reader.index += header.rest(timeSize: wide ? 8 : 4)
        self.name = name
        changes = zip(times, kinds).map { ($0, offsets[$1]) }
        firstOffset = offsets[0]
        footer = nil
        if wide, reader.index < file.count, file[reader.index] == 0x0A,
            let end = file[(reader.index + 1)...].firstIndex(of: 0x0A), end > reader.index + 1
        {
            guard let read = Footer(text: Array(file[(reader.index + 1)..<end])) else { return nil }
            footer = read
        }
    }

    /// Seconds east of UTC at a second since 1970.
    package func offset(at second: Int) -> Int {
        guard let last = changes.last, second < last.at else {
            return footer?.offset(at: second) ?? changes.last?.offset ?? firstOffset
        }
        var low = 0
        var high = changes.count
        while low < high {
            let middle = (low + high) / 2
            if changes[middle].at <= second { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? firstOffset : changes[low - 1].offset
    }

    /// The range cut where the offset changes: each stretch's first second and offset.
    func stretches(from: Int, to: Int) -> [(start: Int, offset: Int)] {
        var out = [(start: from, offset: offset(at: from))]
        func add(_ at: Int, _ offset: Int) {
            if at > from, at < to, out[out.count - 1].offset != offset { out.append((at, offset)) }
        }
        for change in changes { add(change.at, change.offset) }
        if let footer {
            let last = changes.last?.at ?? .min
            let firstYear = Civil.date(days: floorDivide(max(from, last), 86_400)).year
            let lastYear = Civil.date(days: floorDivide(to, 86_400)).year
            if firstYear <= lastYear {
                for year in firstYear...lastYear {
                    for change in footer.changes(year: year) where change.at > last { add(change.at, change.offset) }
                }
            }
        }
        return out
    }
}

extension TimeZoneRules {
    private struct Header {
        var version: UInt8
        var isUT, isStandard, leaps, times, types, characters: Int

        func rest(timeSize: Int) -> Int { characters + leaps * (timeSize + 4) + isStandard + isUT }
        func size(timeSize: Int) -> Int { times * (timeSize + 1) + types * 6 + rest(timeSize: timeSize) }
    }

    private struct Reader {
        var bytes: [UInt8]
        var index = 0

        init(bytes: [UInt8]) { self.bytes = bytes }

        /// Big-endian, two's complement. The caller has checked that the bytes are there.
        mutating func integer(_ size: Int) -> Int {
            var value = Int(Int8(bitPattern: bytes[index]))
            for byte in bytes[index + 1..<index + size] { value = value << 8 | Int(byte) }
            index += size
            return value
        }

        mutating func header() -> Header? {
            guard index + 44 <= bytes.count, bytes[index..<index + 4].elementsEqual("TZif".utf8) else { return nil }
            let version = bytes[index + 4]
            index += 20
            let counts = (0..<6).map { _ in integer(4) }
            guard counts.allSatisfy({ $0 >= 0 && $0 <= bytes.count }) else { return nil }
            return Header(
                version: version, isUT: counts[0], isStandard: counts[1], leaps: counts[2], times: counts[3],
                types: counts[4], characters: counts[5])
        }
    }

    /// `std offset [dst [offset] , start[/time] , end[/time]]`, POSIX 8.3, with RFC 8536's times from -167 to 167 h.
    private struct Footer: Sendable {
        enum Day: Sendable {
            /// 1 to 365, 29 February never counted.
            case julian(Int)
            /// 0 to 365, 29 February counted.
            case ordinal(Int)
            /// Week 5 is the last one; weekday 0 is Sunday.
            case weekday(month: Int, week: Int, weekday: Int)
        }
        var standard: Int
        var summer: (offset: Int, start: (day: Day, second: Int), end: (day: Day, second: Int))?

        init?(text: [UInt8]) {
            var index = 0
            func peek() -> UInt8 { index < text.count ? text[index] : 0 }
            func number() -> Int? {
                var value: Int?
                while peek() >= 0x30, peek() <= 0x39, (value ?? 0) < 1000 {
                    value = (value ?? 0) * 10 + Int(peek() - 0x30)
                    index += 1
                }
                return value
            }
            func skip(_ character: Character) -> Bool {
                guard peek() == character.asciiValue else { return false }
                index += 1
                return true
            }
            func abbreviation() -> Bool {
                let start = index
                if skip("<") {
                    while index < text.count, peek() != UInt8(ascii: ">") { index += 1 }
                    return skip(">")
                }
                while peek() >= 0x41, peek() <= 0x7A { index += 1 }
                return index > start
            }
            func duration() -> Int? {
                let sign = skip("-") ? -1 : 1
                if sign == 1 { _ = skip("+") }
                guard let hours = number() else { return nil }
                var seconds = hours * 3600
                if skip(":") {
                    guard let minutes = number() else { return nil }
                    seconds += minutes * 60
                    if skip(":") {
                        guard let rest = number() else { return nil }
                        seconds += rest
                    }
                }
                return sign * seconds
            }
            func rule() -> (day: Day, second: Int)? {
                guard skip(",") else { return nil }
                let day: Day
                if skip("M") {
                    guard let month = number(), skip("."), let week = number(), skip("."), let weekday = number(),
                        (1...12).contains(month), (1...5).contains(week), weekday < 7
                    else { return nil }
                    day = .weekday(month: month, week: week, weekday: weekday)
                } else {
                    let julian = skip("J")
                    guard let number = number(), number <= 365, !julian || number > 0 else { return nil }
                    day = julian ? .julian(number) : .ordinal(number)
                }
                guard skip("/") else { return (day, 7200) }
                guard let second = duration() else { return nil }
                return (day, second)
            }
            guard abbreviation(), let west = duration() else { return nil }
            standard = -west
            if index < text.count {
                guard abbreviation() else { return nil }
                var offset = standard + 3600
                if peek() != UInt8(ascii: ",") {
                    guard let west = duration() else { return nil }
                    offset = -west
                }
                guard let start = rule(), let end = rule() else { return nil }
                summer = (offset, start, end)
            }
            guard index == text.count else { return nil }
        }

        /// Both changes of a year, ascending.
        func changes(year: Int) -> [(at: Int, offset: Int)] {
            guard let summer else { return [] }
            let start = Self.second(summer.start.day, year: year) + summer.start.second - standard
            let end = Self.second(summer.end.day, year: year) + summer.end.second - summer.offset
            let both = [(at: start, offset: summer.offset), (at: end, offset: standard)]
            return start < end ? both : both.reversed()
        }

        func offset(at second: Int) -> Int {
            guard summer != nil else { return standard }
            let year = Civil.date(days: floorDivide(second, 86_400)).year
            var offset = standard
            // A change near New Year may stand in the neighbouring year by UTC.
            for year in year - 1...year + 1 {
                for change in changes(year: year) where change.at <= second { offset = change.offset }
            }
            return offset
        }

        private static func second(_ day: Day, year: Int) -> Int {
            let newYear = Civil.days(year: year, month: 1, day: 1)
            switch day {
            case .ordinal(let number): return (newYear + number) * 86_400
            case .julian(let number):
                return (newYear + number - 1 + (number >= 60 && Civil.isLeap(year) ? 1 : 0)) * 86_400
            case .weekday(let month, let week, let weekday):
                let first = Civil.days(year: year, month: month, day: 1)
                // 1970-01-01 was a Thursday.
                let firstWeekday = ((first + 4) % 7 + 7) % 7
                var day = (weekday - firstWeekday + 7) % 7 + (week - 1) * 7
                if day >= Civil.days(inMonth: month, year: year) { day -= 7 }
                return (first + day) * 86_400
            }
        }
    }
}
