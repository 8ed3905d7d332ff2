// What became of rules files read anew at SIGHUP. Registered by the roles that go by rules.

package struct RulesMetrics: Sendable {
    package let reloaded = Counter()
    package let refused = Counter()

    package init() {}

    package var all: [Metric] {
        [("taken", reloaded), ("refused", refused)].map { result, counter in
            Metric(
                "millrace_rules_reloads_total",
                "Times that SIGHUP had the rules file read anew: taken, or refused and the old ones kept.",
                labels: [("result", result)], .counter { counter.value })
        }
    }
}
