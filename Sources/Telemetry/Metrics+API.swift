// What the API counts.

package struct APIMetrics: Sendable {
    /// Requests answered, by status class.
    package let succeeded = Counter()
    package let refused = Counter()
    package let failed = Counter()
    /// Questions to `/v1/query` that were answered, and what they cost.
    package let questions = Counter()
    package let rowsRead = Counter()
    package let questionDuration = DurationHistogram()

    package init() {}

    package var all: [Metric] {
        let name = "millrace_api_requests_total"
        let help = "Requests answered, by class of status."
        return [
            Metric(name, help, labels: [("status", "2xx")], .counter { [succeeded] in succeeded.value }),
            Metric(name, help, labels: [("status", "4xx")], .counter { [refused] in refused.value }),
            Metric(name, help, labels: [("status", "5xx")], .counter { [failed] in failed.value }),
            Metric(
                "millrace_api_questions_total", "Questions to /v1/query that were answered.",
                .counter { [questions] in questions.value }),
            Metric(
                "millrace_api_rows_read_total", "Rollup rows and events read for them.",
                .counter { [rowsRead] in rowsRead.value }),
            Metric(
                "millrace_api_question_duration_seconds", "From a question read to its answer ready.",
                .duration(questionDuration)),
        ]
    }
}
