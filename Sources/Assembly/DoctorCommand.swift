// `millrace doctor`: what a role would meet at its start, looked at one after the other: disk, log, store, providers.

import CommandLine
import Configuration
import Events
import Glibc
import JSONText
import Journal
import RecordLog
import RecordLogKafka
import RollupStore
import Telemetry

enum DoctorCommand {
    private static let connectSeconds = 3
    private static let answerMilliseconds: Int32 = 5_000

    private struct Finding {
        var check: String
        var isFine: Bool
        var found: String
        /// What to do; empty where nothing is.
        var next = ""
    }

    static func run(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        var findings = [Finding(check: "configuration", isFine: true, found: "no mistakes")]
        findings.append(
            look("rules and prices") {
                _ = try Preparation.read(configuration); return "they can be read"
            })
        findings.append(journal(configuration))
        if configuration.log.kind == .kafka { findings.append(kafka(configuration)) }
        findings.append(store(configuration))
        for (name, url) in configuration.proxy.providers { findings.append(provider(name, url)) }
        let isFine = findings.allSatisfy(\.isFine)
        try Terminal.write(
            invocation.flag("json") ? json(findings, isFine) : text(findings, isFine))
        return isFine ? 0 : 1
    }

    /// What a check throws says by itself what to do.
    private static func look(_ check: String, _ body: () throws -> String) -> Finding {
        do {
            return Finding(check: check, isFine: true, found: try body())
        } catch let error as RollupStoreError {
            return Finding(check: check, isFine: false, found: "\(error.tried): \(error.reason)", next: error.next)
        } catch {
            return Finding(check: check, isFine: false, found: "\(error)")
        }
    }

    // MARK: Disk

    private static func journal(_ configuration: MillraceConfiguration) -> Finding {
        let directory = configuration.journal.directory
        guard let there = nearest(directory) else {
            return Finding(check: "journal", isFine: false, found: "\(directory): nothing on the way to it can be seen")
        }
        guard access(there, W_OK | X_OK) == 0 else {
            return Finding(
                check: "journal", isFine: false, found: "\(there) cannot be written by this user",
                next: "Change its owner, or name another journal.directory.")
        }
        var disk = statvfs()
        guard statvfs(there, &disk) == 0 else {
            return Finding(check: "journal", isFine: false, found: "\(there): \(String(cString: strerror(errno)))")
        }
        let free = Int(disk.f_bavail) * Int(disk.f_frsize)
        let wanted = configuration.journal.maxSizeBytes
        let found = "\(directory): \(size(free)) free, it may grow to \(size(wanted))"
        if free + LaneDirectory.all(in: directory).reduce(0, { $0 + $1.size }) < wanted {
            return Finding(
                check: "journal", isFine: false, found: found,
                next:
                    "Free some space, or lower journal.max_size_bytes: a full disk costs events once memory is full too."
            )
        }
        return Finding(check: "journal", isFine: true, found: found)
    }

    /// The directory, or the first above it that is there.
    private static func nearest(_ directory: String) -> String? {
        var path = directory
        while access(path, F_OK) != 0 {
            guard let slash = path.lastIndex(of: "/") else { return "." }
            path = slash == path.startIndex ? "/" : String(path[..<slash])
            if path == "/" { break }
        }
        return access(path, F_OK) == 0 ? path : nil
    }

    private static func size(_ bytes: Int) -> String {
        bytes >= 1 << 30 ? "\(bytes >> 30) GiB" : "\(bytes >> 20) MiB"
    }

    // MARK: Servers

    private static func kafka(_ configuration: MillraceConfiguration) -> Finding {
        let kafka = configuration.log.kafka
        do {
            let partitions = try KafkaAdmin.describe(
                kafka.options, timeoutMilliseconds: answerMilliseconds, log: Log(role: "doctor", descriptor: -1),
                metrics: KafkaMetrics())
            if let partitions {
                return Finding(
                    check: "kafka", isFine: true,
                    found: "\(kafka.bootstrapServers) answers; \(kafka.topic) has \(partitions) partitions")
            }
            return Finding(
                check: "kafka", isFine: false,
                found: "\(kafka.bootstrapServers) answers; there is no topic \(kafka.topic)",
                next: "Run 'millrace topics ensure'; proxy and consumer make it at their start, too.")
        } catch {
            return Finding(
                check: "kafka", isFine: false, found: "\(error.tried): \(error.reason)", next: error.next)
        }
    }

    private static func store(_ configuration: MillraceConfiguration) -> Finding {
        if case .sqlite(let path) = configuration.store, access(path, F_OK) != 0 {
            guard let there = nearest(path), access(there, W_OK | X_OK) == 0 else {
                return Finding(
                    check: "store", isFine: false, found: "\(path) is not there and cannot be made",
                    next: "Change the directory's owner, or name another place in store.url.")
            }
            return Finding(check: "store", isFine: true, found: "\(path) is not there yet; the first role makes it")
        }
        return look("store") {
            let store = try Preparation.openStore(configuration, readers: 1)
            let (partitions, latest) = try store.reader.read { (try $0.ledger().count, try $0.watermark) }
            let newest = latest.map { "newest event \(RFC3339.precise($0))" } ?? "no event yet"
            return "\(store.name) answers; \(partitions) partitions, \(newest)"
        }
    }

    private static func provider(_ name: String, _ url: ProviderURL) -> Finding {
        let check = "provider \(name)"
        let address = "\(url.host):\(url.port)"
        do {
            try HTTPCall.reach(url, seconds: connectSeconds)
            return Finding(check: check, isFine: true, found: "\(address) takes connections")
        } catch {
            return Finding(
                check: check, isFine: false, found: "\(error)",
                next: "Look at the network, or at proxy.providers.\(name).base_url.")
        }
    }

    // MARK: Text

    private static func text(_ findings: [Finding], _ isFine: Bool) -> String {
        var out = TextTable(
            heads: ["", "check", "found"], findings.map { [$0.isFine ? "ok" : "!!", $0.check, $0.found] }
        ).text
        for finding in findings where !finding.isFine && !finding.next.isEmpty {
            out += "\(finding.check): \(finding.next)\n"
        }
        return out + (isFine ? "Everything is as it should be.\n" : "")
    }

    private static func json(_ findings: [Finding], _ isFine: Bool) -> String {
        let rows = findings.map { finding -> JSONValue in
            [
                "check": .string(finding.check), "ok": .boolean(finding.isFine), "found": .string(finding.found),
                "next": .string(finding.next),
            ]
        }
        let answer: JSONValue = ["ok": .boolean(isFine), "checks": .array(rows)]
        return answer.text + "\n"
    }
}
