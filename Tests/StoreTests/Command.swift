// The built program beside a store under test, ended by its pid.

import Foundation
import Testing

/// `MILLRACE_TEST_ROUNDS`: how often the loops go round; `make soak` sets it.
func rounds(_ usual: Int) -> Int {
    ProcessInfo.processInfo.environment["MILLRACE_TEST_ROUNDS"].flatMap { Int($0) } ?? usual
}

/// Commands on one store, each a process of its own.
final class Command {
    /// Files that commands read lie here.
    let directory: TemporaryDirectory

    /// Beside the test program, or `MILLRACE_TEST_BINARY`.
    static let program: String = {
        if let path = ProcessInfo.processInfo.environment["MILLRACE_TEST_BINARY"] { return path }
        let tests = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
        return tests.deletingLastPathComponent().appending(path: "millrace").path
    }()

    init(on store: any StoreUnderTest) throws {
        directory = try TemporaryDirectory()
        try write(
            """
            journal: { directory: "\(directory.path)/journal" }
            store: { url: "\(store.url)" }

            """, to: "millrace.yaml")
    }

    func write(_ text: String, to name: String) throws {
        try text.write(toFile: "\(directory.path)/\(name)", atomically: true, encoding: .utf8)
    }

    func start(_ words: [String]) throws -> Running {
        let process = Process()
        process.executableURL = URL(filePath: Self.program)
        process.arguments = words + ["--config", "\(directory.path)/millrace.yaml"]
        process.currentDirectoryURL = URL(filePath: directory.path)
        // To a file: no pipe can fill.
        let log = "\(directory.path)/\(UUID().uuidString)"
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process.standardOutput = FileHandle(forWritingAtPath: log)
        process.standardError = FileHandle(forWritingAtPath: log)
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return Running(process, log)
    }

    final class Running {
        private let process: Process
        private let log: String

        fileprivate init(_ process: Process, _ log: String) { (self.process, self.log) = (process, log) }

        deinit { if process.isRunning { kill() } }

        var isRunning: Bool { process.isRunning }
        var output: String { (try? String(contentsOfFile: log, encoding: .utf8)) ?? "" }

        /// `kill -9`; true: it ended by that, and not by itself.
        @discardableResult
        func kill() -> Bool {
            if process.isRunning { Foundation.kill(process.processIdentifier, SIGKILL) }
            process.waitUntilExit()
            return process.terminationReason == .uncaughtSignal
        }

        /// Of one that has ended by itself.
        var status: Int32 { process.terminationStatus }
    }
}
