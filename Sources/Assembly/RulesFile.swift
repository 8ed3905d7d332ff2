// A rules file -> rules, or every mistake in it with its line, in the file's order.

import Configuration
import Normalizer

enum RulesFile {
    /// A mistake in the file and where it stands; line 0 where none is to blame.
    struct LinedProblem: Equatable, Comparable, CustomStringConvertible {
        var line: Int
        var path: String
        var message: String

        static func < (a: Self, b: Self) -> Bool { (a.line, a.path, a.message) < (b.line, b.path, b.message) }

        var description: String { line > 0 ? "line \(line): \(withoutLine)" : withoutLine }
        var withoutLine: String { path.isEmpty ? message : "\(path): \(message)" }
    }

    /// Values of one key: a file with more is not read for all that each says.
    private static let repeatsRead = 8

    static func valid(_ path: String) throws -> Rules {
        let (rules, problems) = try read(path)
        guard let rules else {
            throw Failure("\(path): " + problems.map(\.description).joined(separator: "\n  "), status: 2)
        }
        return rules
    }

    static func read(_ path: String) throws -> (rules: Rules?, problems: [LinedProblem]) {
        let bytes: [UInt8]
        switch readFile(path) {
        case .failure(let problem): throw Failure("\(path): \(problem.reason)", status: 2)
        case .success(let read): bytes = read
        }
        return read(bytes)
    }

    /// The text of a rules file.
    static func read(_ bytes: [UInt8]) -> (rules: Rules?, problems: [LinedProblem]) {
        var mistakes: [YAMLError] = []
        guard let tree = YAMLNode.parse(bytes, &mistakes) else { return (nil, mistakes.map(LinedProblem.init)) }
        if mistakes.isEmpty {
            let (rules, problems) = decode(tree)
            return (rules, problems.sorted())
        }
        // Of a key that is given several times each value may hold other mistakes.
        var problems = mistakes.map(LinedProblem.init)
        for tree in tree.withoutRepeats(limit: repeatsRead) {
            problems += decode(tree).problems.filter { !problems.contains($0) }
        }
        return (nil, problems.sorted())
    }

    private static func decode(_ tree: YAMLNode) -> (rules: Rules?, problems: [LinedProblem]) {
        do throws(RulesError) {
            return (try Rules.decode(tree.json), [])
        } catch {
            let problems = error.problems.map { problem in
                LinedProblem(line: tree.line(of: problem.path), path: problem.path, message: problem.message)
            }
            return (nil, problems)
        }
    }
}

extension RulesFile.LinedProblem {
    init(_ mistake: YAMLError) { self.init(line: mistake.line, path: "", message: mistake.reason) }
}
