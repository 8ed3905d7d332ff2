// Processes that a test starts and ends: argument list -> exit status and output. Each is ended by its pid.

import Glibc
import Testing

struct ChildError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// A running child. Its standard output and error go to files, so that no pipe can fill and none is lost to a kill.
///
/// Owned by one test; `deinit` kills what is left of it.
final class ChildProcess {
    let name: String
    let pid: pid_t
    let outputPath: String
    private let errorPath: String
    private var status: Int32?

    /// `environment` is added to this process's own.
    init(
        _ arguments: [String], name: String, directory: String, environment: [String: String] = [:],
        outputTo logDirectory: String
    ) throws {
        self.name = name
        let serial = UInt32.random(in: 0...UInt32.max)
        outputPath = "\(logDirectory)/\(name)-\(serial).out"
        errorPath = "\(logDirectory)/\(name)-\(serial).err"
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_addopen(&actions, 2, errorPath, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        // The children's children go with them: a group of their own.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        var variables = Self.ownEnvironment()
        variables.merge(environment) { _, new in new }
        // `env` changes the directory, then becomes the program: the pid is the program's.
        let argumentList = (["env", "-C", directory] + arguments).map { strdup($0) } + [nil]
        let variableList = variables.map { strdup("\($0)=\($1)") } + [nil]
        defer { for text in argumentList + variableList { free(text) } }
        var made: pid_t = 0
        let result = posix_spawnp(&made, "env", &actions, &attributes, argumentList, variableList)
        guard result == 0 else {
            throw ChildError("\(arguments.joined(separator: " ")): \(String(cString: strerror(result)))")
        }
        pid = made
    }

    deinit {
        guard status == nil else { return }
        Glibc.kill(pid, SIGKILL)
        var ignored: Int32 = 0
        waitpid(pid, &ignored, 0)
    }

    var isRunning: Bool {
        if status != nil { return false }
        var raw: Int32 = 0
        guard waitpid(pid, &raw, WNOHANG) == pid else { return true }
        status = Self.decoded(raw)
        return false
    }

    func send(_ signal: Int32) { if isRunning { Glibc.kill(pid, signal) } }

    /// `kill -9`, and waits until the process is gone.
    func crash() throws {
        send(SIGKILL)
        _ = try wait(seconds: 10)
    }

    /// SIGTERM; the exit status. More than 20 seconds is an error, as DESIGN has it for every role.
    @discardableResult
    func stop() throws -> Int32 {
        send(SIGTERM)
        return try wait(seconds: 20)
    }

    /// The exit status; 128 + signal where a signal ended it.
    func wait(seconds: Int) throws -> Int32 {
        try waitUntil("\(name) has ended", seconds: seconds, detail: { self.errors.suffix(2_000).description }) {
            !isRunning
        }
        return status ?? 0
    }

    /// What it has in memory now.
    func residentBytes() throws -> Int {
        let pages = readText("/proc/\(pid)/statm").split(separator: " ").dropFirst().first.flatMap { Int($0) }
        guard let pages else { throw ChildError("\(name) has no memory: it has ended") }
        return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    /// Of that, what is its own: without files that it maps.
    func ownBytes() throws -> Int {
        let line = readText("/proc/\(pid)/status").split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
        guard let kibibytes = line.flatMap({ Int($0.filter(\.isNumber)) }) else {
            throw ChildError("\(name) has no memory: it has ended")
        }
        return kibibytes * 1_024
    }

    var output: String { readText(outputPath) }
    var errors: String { readText(errorPath) }

    func forgetOutput() {
        unlink(outputPath)
        unlink(errorPath)
    }

    private static func decoded(_ raw: Int32) -> Int32 {
        raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + raw & 0x7F
    }

    private static func ownEnvironment() -> [String: String] {
        var variables: [String: String] = [:]
        var next: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> = environ
        while let entry = next.pointee {
            let parts = String(cString: entry).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            // A developer's own settings must not decide a test.
            if parts.count == 2, !parts[0].hasPrefix("MILLRACE_") { variables[String(parts[0])] = String(parts[1]) }
            next += 1
        }
        return variables
    }
}

/// Runs to the end; status, output, errors.
func run(
    _ arguments: [String], directory: String, environment: [String: String] = [:], seconds: Int = 60
) throws -> (status: Int32, output: String, errors: String) {
    let name = arguments[0].split(separator: "/").last.map(String.init) ?? "child"
    let child = try ChildProcess(
        arguments, name: "millrace-\(name)", directory: directory, environment: environment, outputTo: "/tmp")
    defer { child.forgetOutput() }
    let status = try child.wait(seconds: seconds)
    return (status, child.output, child.errors)
}

/// Looks every 20 ms until true; an error that says what was waited for when the time has passed.
func waitUntil(
    _ what: String, seconds: Int, detail: () -> String = { "" }, _ isDone: () throws -> Bool
) throws {
    let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
    while try !isDone() {
        if ContinuousClock.now >= deadline { throw ChildError("not within \(seconds) s: \(what). \(detail())") }
        usleep(20_000)
    }
}

func readBytes(_ path: String) -> [UInt8] {
    guard let file = fopen(path, "r") else { return [] }
    defer { fclose(file) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { all += buffer.prefix(count) }
    return all
}

func readText(_ path: String) -> String { String(decoding: readBytes(path), as: UTF8.self) }

func writeText(_ path: String, _ text: String) throws {
    let file = try #require(fopen(path, "w"), "create \(path)")
    fputs(text, file)
    fclose(file)
}

/// A directory that goes with its owner.
final class WorkDirectory {
    let path: String

    init(_ name: String) throws {
        var template = Array("/tmp/millrace-\(name)-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw ChildError("mkdtemp: \(String(cString: strerror(errno)))") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { _ = try? run(["rm", "-rf", "--", path], directory: "/") }

    /// The files below that hold the text, in any place, sparse and binary ones too.
    func files(containing text: String) throws -> [String] {
        let result = try run(["grep", "-rlaF", "--", text, path], directory: "/")
        return result.output.split(separator: "\n").map(String.init)
    }
}

/// A port that nothing listens on, below the range that the system hands out by itself, so that a restarted process
/// finds it free.
func freePort() throws -> UInt16 {
    for _ in 0..<1_000 {
        let port = UInt16.random(in: 20_000..<32_000)
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if status == 0 { return port }
    }
    throw ChildError("no free port between 20000 and 32000")
}
