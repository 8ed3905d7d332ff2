// What the API takes from the machine it runs on: the time, and the files of the time zones.

package import Events
import Glibc

package enum SystemFacts {
    @Sendable package static func now() -> EventTime {
        var instant = timespec()
        clock_gettime(CLOCK_REALTIME, &instant)
        return EventTime(microseconds: Int64(instant.tv_sec) * 1_000_000 + Int64(instant.tv_nsec) / 1000)
    }

    /// The caller has seen to it that the name stays within the folder.
    @Sendable package static func zoneFile(_ name: String) -> [UInt8]? {
        guard let file = fopen("/usr/share/zoneinfo/" + name, "re") else { return nil }
        defer { fclose(file) }
        // The largest is 4 KiB.
        var bytes = [UInt8](repeating: 0, count: 65_536)
        let count = fread(&bytes, 1, bytes.count, file)
        return ferror(file) == 0 ? Array(bytes[..<count]) : nil
    }
}
