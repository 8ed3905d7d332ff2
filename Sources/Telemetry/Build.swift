// What was built: `--version`, the manual page and `millrace_build_info` say the same.

import CBuild

package enum Build {
    package static let version = "0.1.0"

    /// Twelve letters of the commit, with `-changed` behind them where files differed from it; nil where the build was
    /// not told: `make build` tells it, `MILLRACE_COMMIT` in the environment of `swift build` does too.
    package static let commit: String? = {
        let text = String(cString: millrace_commit())
        return text == "unknown" ? nil : text
    }()

    /// `0.1.0 (74dced7f00aa)`.
    package static var text: String { "\(version) (\(commit ?? "commit unknown"))" }

    package static func metric(role: String) -> Metric {
        Metric(
            "millrace_build_info", "1; the labels say what runs.",
            labels: [("role", role), ("version", version), ("commit", commit ?? "unknown")], .gauge { 1 })
    }
}
