// Random questions of the whole grammar over HTTP, to the built program on each store, each answered a second time by a
// walk over all events: another program in another language.

import Foundation
import Testing

@Suite(.serialized) struct QuestionTests {
    /// `MILLRACE_TEST_QUESTIONS`: how many are asked; `make soak` sets it.
    private static let asked = ProcessInfo.processInfo.environment["MILLRACE_TEST_QUESTIONS"].flatMap { Int($0) }
    private static let script = URL(filePath: #filePath).deletingLastPathComponent()
        .appending(path: "../Support/ask_at_random.py").standardized.path

    @Test(arguments: StoreKind.allCases)
    func randomQuestionsAreAnsweredAsByAWalk(_ kind: StoreKind) throws {
        let store = try kind.make()
        let directory = try TemporaryDirectory()
        let seed = UInt64.random(in: 0..<1_000_000_000)
        let usual = [StoreKind.sqlite: 1_500, .postgresql: 1_000, .clickhouse: 150]
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/python3")
        process.arguments = [Self.script, Command.program, store.url, "\(seed)", "\(Self.asked ?? usual[kind] ?? 100)"]
        // To a file: no pipe can fill.
        let log = directory.path + "/output"
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process.standardOutput = FileHandle(forWritingAtPath: log)
        process.standardError = FileHandle(forWritingAtPath: log)
        try process.run()
        process.waitUntilExit()
        let output = try String(contentsOfFile: log, encoding: .utf8)
        print("\(kind): \(output.split(separator: "\n").last ?? "")")
        #expect(process.terminationStatus == 0, "seed \(seed): \(output)")
    }
}
