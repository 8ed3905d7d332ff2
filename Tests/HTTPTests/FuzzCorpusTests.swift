// What the fuzzers of both sides of HTTP start from and have found, replayed as `make fuzz` would.
// A finding ends the process that replays it, hence one of its own for each file.

import Foundation
import Testing

@Suite(.timeLimit(.minutes(5))) struct FuzzCorpusTests {
    /// `Tests/Fuzz/corpus/NAME`, where `make fuzz` leaves its findings.
    private static func corpus(_ name: String) -> [String] {
        let tests = "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/")
        let directory = "\(tests)/Fuzz/corpus/\(name)"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.sorted().map { "\(directory)/\($0)" }
    }

    @Test func theCorpusOfRequestsIsThere() { #expect(!Self.corpus("requests").isEmpty) }

    @Test(arguments: corpus("requests")) func requestsReadAlikeWhereverTheyAreCut(_ path: String) async throws {
        await #expect(processExitsWith: .success) { [path = path as String] in
            try Data(contentsOf: URL(filePath: path)).withUnsafeBytes { fuzzRequests($0) }
        }
    }

    @Test func theCorpusOfAnswersIsThere() { #expect(!Self.corpus("answers").isEmpty) }

    @Test(arguments: corpus("answers")) func answersReadAlikeWhereverTheyAreCut(_ path: String) async throws {
        await #expect(processExitsWith: .success) { [path = path as String] in
            try Data(contentsOf: URL(filePath: path)).withUnsafeBytes { fuzzAnswers($0) }
        }
    }
}
