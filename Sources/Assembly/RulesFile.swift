// A rules file -> rules, or every mistake in it with its line, in the file's order.

import Configuration
import Normalizer

enum RulesFile {
    /// A mistake in the file and where it stands; line 0 where none is to blame.
    struct LinedProblem: CustomStringConvertible {
        var line: Int
        var path: String
        var message: String

        var description: String { line > 0 ? "line \(line): \(withoutLine)" : withoutLine }
        var withoutLine: String { path.isEmpty ? message : "\(path): \(message)" }
    }

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
        let tree: YAMLNode
        do throws(YAMLError) {
            tree = try YAMLNode.parse(bytes)
        } catch {
            return (nil, [LinedProblem(line: error.line, path: "", message: error.reason)])
        }
        do throws(RulesError) {
            return (try Rules.decode(tree.json), [])
        } catch {
            let problems = error.problems.map { problem in
                LinedProblem(line: tree.line(of: problem.path), path: problem.path, message: problem.message)
            }
            return (nil, problems.sorted { ($0.line, $0.path) < ($1.line, $1.path) })
        }
    }
}
