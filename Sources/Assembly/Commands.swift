// Every command of the program, declared once: parsing, help and (from the same text) manual pages.

import CommandLine
import Configuration
import Telemetry

/// How `dead-letters list`, `redrive` and `discard` choose.
private let deadLetterFilters = [
    Option("code", "CODE", "why it was rejected, such as undecodable"),
    Option("from", "TIME", "filed at or after, RFC 3339"),
    Option("to", "TIME", "filed before, RFC 3339"),
    Option("source", "PLACE", "topic, topic/partition or topic/partition/offset"),
]

extension Program {
    static let millrace = Program(
        name: "millrace", version: Build.text,
        summary: "records what every LLM request cost, and answers questions about it",
        commands: [
            Command(
                "up", "run everything in one process on embedded defaults",
                discussion: [
                    "Proxy, journal, consumer, SQLite store, API and page in one process. Without --config nobody is "
                        + "asked for a key (auth.mode: open). Data is kept in ./millrace-data."
                ],
                options: [Option("demo", nil, "add a mock provider and a trickle of sample traffic")],
                examples: [
                    Example("millrace up --demo", "look at it, without network and without keys"),
                    Example("millrace up --api.listen 127.0.0.1:9000", "run it for real, the page on another port"),
                ]),
            Command(
                "proxy", "run the proxy: record each request, ship it to the log",
                examples: [Example("millrace proxy --config millrace.yaml", "run the role by a file")]),
            Command(
                "consumer", "run the consumer: log to rollups",
                examples: [Example("millrace consumer --config millrace.yaml", "run the role by a file")]),
            Command(
                "api", "run the API and the page",
                examples: [Example("millrace api --config millrace.yaml", "run the role by a file")]),
            Command(
                "query", "ask from the terminal",
                discussion: [
                    "Asks a running API where --api is given, else reads the store of the configuration itself. Without "
                        + "--from it asks about the last 24 hours."
                ],
                arguments: [Argument("WHERE", "condition, such as \"metadata.env = 'prod'\"", isRequired: false)],
                options: [
                    Option("from", "TIME", "first instant, RFC 3339", standard: "24 hours before --to"),
                    Option("to", "TIME", "end, not included, RFC 3339", standard: "now"),
                    Option("granularity", "G", "total, minute, hour, day or auto", standard: "total"),
                    Option("timezone", "ZONE", "where days and hours begin", standard: "UTC"),
                    Option("group-by", "NAME", "such as metadata.env or model, comma-separated", isRepeatable: true),
                    Option(
                        "measure", "NAME", "such as cost_usd or latency_ms.p99, comma-separated",
                        standard: "requests,error_rate,cost_usd,latency_ms.p95", isRepeatable: true),
                    Option("order-by", "NAME", "a measure or group, - before it for descending"),
                    Option("limit", "N", "groups shown", standard: "100"),
                    Option("api", "URL", "ask this API; its key in MILLRACE_API_KEY"),
                    Option(
                        "workspace", "NAME", "whose events of the store; an API goes by its key", standard: "default"),
                    Option("json", nil, "the API's answer as it is"),
                    Option("csv", nil, "comma-separated values"),
                    Option("explain", nil, "say how the answer was found, on standard error"),
                    Option("watch", "SECONDS", "ask again and again until stopped"),
                ],
                examples: [
                    Example(
                        "millrace query \"metadata.env = 'prod'\" --group-by model --measure requests,cost_usd",
                        "cost of production by model"),
                    Example(
                        "millrace query --api http://127.0.0.1:8788 --granularity hour --json",
                        "ask a running API, hour by hour"),
                ]),
            Command(
                "reconcile", "what proxies recorded against what was counted",
                discussion: [
                    "One row a proxy and minute: accepted = recorded + dropped, difference = recorded - applied - "
                        + "dead_lettered - in_flight. Asks a running API where --api is given, else reads the store and "
                        + "the journal of the configuration itself."
                ],
                options: [
                    Option("from", "TIME", "first minute, RFC 3339", standard: "24 hours ago"),
                    Option("to", "TIME", "end, not included, RFC 3339", standard: "the running minute, included"),
                    Option("fail-on-difference", nil, "end with 1 where a minute has a difference"),
                    Option("api", "URL", "ask this API; its key (scope admin) in MILLRACE_API_KEY"),
                    Option("json", nil, "answer as JSON"),
                ],
                examples: [
                    Example("millrace reconcile", "the last day"),
                    Example("millrace reconcile --fail-on-difference --json", "from cron"),
                ]),
            Command(
                "keys", "API keys",
                subcommands: [
                    Command(
                        "create", "make a key and print it, once",
                        discussion: [
                            "The key is shown now and never again: only its hash is kept. Proxies and APIs with "
                                + "auth.mode: keys know it within seconds."
                        ],
                        options: [
                            Option("workspace", "W", "where its events go, and what it may ask about"),
                            Option("scopes", "LIST", "of ingest, query and admin, comma-separated"),
                            Option("name", "N", "what it is for, shown by keys list"),
                            Option("json", nil, "answer as JSON"),
                        ],
                        examples: [
                            Example(
                                "millrace keys create --workspace search --scopes ingest --name checkout-service",
                                "a key for a service that sends requests"),
                            Example(
                                "millrace keys create --workspace search --scopes query,admin --json",
                                "a key that asks, for a script"),
                        ]),
                    Command(
                        "list", "every key, without the keys themselves",
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace keys list", "who may do what")]),
                    Command(
                        "revoke", "refuse a key from now on",
                        discussion: ["Proxies and APIs refuse it within ten seconds. There is no way back."],
                        arguments: [Argument("ID", "as keys list shows it, such as key_4f…", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace keys revoke key_7c2m0q9x1d8", "after a leak")]),
                ]),
            Command(
                "tail", "follow events live",
                discussion: [
                    "Shows the latest events and then each new one, oldest first, until stopped. Asks a running API where "
                        + "--api is given, else reads the store of the configuration itself."
                ],
                arguments: [Argument("WHERE", "condition, such as \"outcome != 'success'\"", isRequired: false)],
                options: [
                    Option("lines", "N", "events shown at the start", standard: "10"),
                    Option("once", nil, "end after those"),
                    Option("api", "URL", "ask this API; its key in MILLRACE_API_KEY"),
                    Option(
                        "workspace", "NAME", "whose events of the store; an API goes by its key", standard: "default"),
                    Option("json", nil, "JSON lines, with the fields of GET /v1/events"),
                ],
                examples: [
                    Example("millrace tail \"outcome != 'success'\"", "watch what fails"),
                    Example("millrace tail --json | jq .metadata", "hand events on"),
                ]),
            Command(
                "completions", "completions for a shell",
                arguments: [Argument("SHELL", "bash, zsh or fish", isRequired: true)],
                examples: [
                    Example("source <(millrace completions bash)", "in this shell"),
                    Example(
                        "millrace completions fish > ~/.config/fish/completions/millrace.fish",
                        "in every fish from now on"),
                ], takesConfiguration: false),
            Command(
                "man", "the manual page, for man(1)",
                examples: [Example("millrace man | man -l -", "read it")], takesConfiguration: false),
            Command(
                "replay", "rebuild the rollups of a stretch of the past",
                discussion: [
                    "Counts the stored events of whole UTC days anew beside live ingest, those from --from up to --to "
                        + "under other rules or prices, and swaps the result in by one step: until then no answer "
                        + "changes. The same command goes on with a replay that was cut short. An end in the future "
                        + "means now. '--dry-run' shows what would change and changes nothing."
                ],
                options: [
                    Option("from", "TIME", "first instant, RFC 3339"),
                    Option("to", "TIME", "end, not included, RFC 3339", standard: "now"),
                    Option("rules", "FILE", "normalization rules for these events", standard: "those of their time"),
                    Option("prices", "FILE", "a price table for these events", standard: "costs stay"),
                    Option("workspace", "W", "its events alone; others stay as they are", standard: "all workspaces"),
                    Option(
                        "source", "SOURCE",
                        "events, as the store keeps them, or log, for days that the store has no longer all events of",
                        standard: "events where they are all kept, else log"),
                    Option("dry-run", nil, "show what would change, largest first"),
                    Option("rate", "N", "events a second at the most", standard: "half of the time is left to ingest"),
                    Option("json", nil, "answer as JSON"),
                ],
                examples: [
                    Example(
                        "millrace replay --from 2026-11-01T00:00:00Z --rules rules.yaml --dry-run",
                        "what would new rules make of this month?"),
                    Example(
                        "millrace replay --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z --prices prices.json",
                        "a week at the right prices"),
                    Example(
                        "millrace replay --from 2026-11-01T00:00:00Z --workspace shop --rules shop.yaml --dry-run",
                        "what would new rules make of one workspace's month?"),
                    Example(
                        "millrace replay --from 2026-08-01T00:00:00Z --to 2026-08-02T00:00:00Z --source log --dry-run",
                        "what would the log make of a day whose events are past their retention?"),
                ],
                subcommands: [
                    Command(
                        "list", "all replays, the latest first", options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace replay list", "what was rebuilt, and what is under way")]),
                    Command(
                        "status", "how one replay stands",
                        arguments: [Argument("ID", "as the list shows it", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace replay status 2", "how far is it?")]),
                    Command(
                        "resume", "go on with a replay that was cut short",
                        arguments: [Argument("ID", "as the list shows it", isRequired: true)],
                        options: [
                            Option("rate", "N", "events a second at the most"), Option("json", nil, "answer as JSON"),
                        ],
                        examples: [Example("millrace replay resume 2", "after a crash, or a stop")]),
                    Command(
                        "cancel", "give up an unfinished replay; nothing of it is left",
                        arguments: [Argument("ID", "as the list shows it", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace replay cancel 2", "not after all")]),
                    Command(
                        "revert", "let what answered before a replay answer again",
                        arguments: [Argument("ID", "as the list shows it", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace replay revert 2", "go back")]),
                ], runsItself: true),
            Command(
                "dead-letters", "records that could not be counted",
                subcommands: [
                    Command(
                        "list", "newest first",
                        options: deadLetterFilters + [
                            Option("limit", "N", "how many", standard: "100"), Option("json", nil, "answer as JSON"),
                        ],
                        examples: [
                            Example("millrace dead-letters list --code undecodable", "what no version could read"),
                            Example(
                                "millrace dead-letters list --source millrace.request-events.v1/3 --json",
                                "those of one partition"),
                        ]),
                    Command(
                        "show", "one record, its bytes in hex and as text",
                        arguments: [Argument("ID", "as the list shows it: topic/partition/offset", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [
                            Example("millrace dead-letters show millrace.request-events.v1/3/1042", "look at one")
                        ]),
                    Command(
                        "redrive", "send records to the log again, as they came",
                        discussion: [
                            "Key and value are sent as they came, so an event that was counted meanwhile is found by "
                                + "its id and not counted twice. What fails again becomes a dead letter again, at its "
                                + "new offset. Without --again, those that were redriven or discarded before are left out."
                        ],
                        arguments: [Argument("ID", "this one; else those that the options choose", isRequired: false)],
                        options: deadLetterFilters + [
                            Option("all", nil, "every one, where nothing else chooses"),
                            Option("again", nil, "also those that were redriven or discarded before"),
                            Option("json", nil, "answer as JSON"),
                        ],
                        examples: [
                            Example(
                                "millrace dead-letters redrive --code undecodable",
                                "after an upgrade that can read what a newer proxy sent")
                        ]),
                    Command(
                        "discard", "mark records as looked at and given up",
                        discussion: [
                            "They stay where they are, with the time at which they were discarded, and go on to count "
                                + "as dead-lettered. What was redriven or discarded before is left as it is."
                        ],
                        arguments: [Argument("ID", "this one; else those that the options choose", isRequired: false)],
                        options: deadLetterFilters + [
                            Option("all", nil, "every one, where nothing else chooses"),
                            Option("json", nil, "answer as JSON"),
                        ],
                        examples: [
                            Example(
                                "millrace dead-letters discard --source other-topic-by-mistake",
                                "records that were never events")
                        ]),
                ]),
            Command(
                "topics", "Kafka topics",
                subcommands: [
                    Command(
                        "ensure", "create the topics that are missing",
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [
                            Example(
                                "millrace topics ensure --log.kind kafka --log.kafka.partitions 12",
                                "create both topics, the events' with 12 partitions")
                        ])
                ]),
            Command(
                "migrate", "bring the store's tables up to this program",
                options: [Option("json", nil, "answer as JSON")],
                examples: [Example("millrace migrate --config millrace.yaml", "before the first start")]),
            Command(
                "doctor", "look at disk, log, store and providers, and say what is wrong",
                options: [Option("json", nil, "answer as JSON")],
                examples: [Example("millrace doctor --config millrace.yaml", "before the first start, and at 3 a.m.")]),
            Command(
                "backup", "copy the SQLite store while it is in use",
                discussion: [
                    "Writes one state of the store to a new file; ingest goes on. Restored with the roles stopped, ingest "
                        + "goes on at the offsets that the copy has: what came since is read from the log again, as far "
                        + "as the log reaches back."
                ],
                arguments: [Argument("FILE", "a file that is not there yet", isRequired: true)],
                options: [Option("json", nil, "answer as JSON")],
                examples: [Example("millrace backup millrace-$(date +%F).db", "every night")]),
            Command(
                "config", "configuration",
                subcommands: [
                    Command(
                        "check", "say ok, or name every mistake",
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace config check --config millrace.yaml", "check a file")]),
                    Command(
                        "print", "every key with its value and source, secrets masked",
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [Example("millrace config print > millrace.yaml", "begin a file of your own")]),
                    Command(
                        "schema", "the JSON Schema of the configuration file",
                        examples: [
                            Example("millrace config schema > configuration.schema.json", "for an editor")
                        ], takesConfiguration: false),
                    Command(
                        "reference", "every key: default, what is allowed, variable; a Markdown table",
                        options: [Option("json", nil, "as JSON")],
                        examples: [Example("millrace config reference", "look a key up")],
                        takesConfiguration: false),
                ]),
            Command(
                "metrics", "what /metrics says",
                subcommands: [
                    Command(
                        "reference", "every metric: type, labels, roles, meaning; a Markdown table",
                        options: [Option("json", nil, "as JSON")],
                        examples: [Example("millrace metrics reference", "look a metric up")],
                        takesConfiguration: false)
                ]),
            Command(
                "rules", "normalization rules for metadata",
                subcommands: [
                    Command(
                        "check", "say ok, or name every mistake with its line",
                        arguments: [Argument("FILE", "a rules file, YAML", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [
                            Example("millrace rules check rules.yaml", "before it goes into normalization.rules")
                        ],
                        takesConfiguration: false),
                    Command(
                        "schema", "the JSON Schema of a rules file",
                        examples: [Example("millrace rules schema > rules.schema.json", "for an editor")],
                        takesConfiguration: false),
                    Command(
                        "try", "show what the rules make of metadata on standard input, and by which rule",
                        arguments: [Argument("FILE", "a rules file, YAML", isRequired: true)],
                        options: [Option("json", nil, "answer as JSON")],
                        examples: [
                            Example(
                                "echo '{\"userId\":\"u-17\",\"Env\":\"PROD\"}' | millrace rules try rules.yaml",
                                "one request's metadata")
                        ], takesConfiguration: false),
                    Command(
                        "diff", "count what other rules would change in the stored events",
                        discussion: [
                            "Normalizes the raw metadata of every stored event of the range under both files. Nothing is "
                                + "changed. Without --from it looks at the last 24 hours."
                        ],
                        arguments: [
                            Argument("OLD", "a rules file, YAML", isRequired: true),
                            Argument("NEW", "another one", isRequired: true),
                        ],
                        options: [
                            Option("from", "TIME", "first instant, RFC 3339", standard: "24 hours before --to"),
                            Option("to", "TIME", "end, not included, RFC 3339", standard: "now"),
                            Option("limit", "N", "differences shown", standard: "50"),
                            Option("json", nil, "answer as JSON"),
                        ],
                        examples: [
                            Example(
                                "millrace rules diff rules.yaml next.yaml --from 2026-11-01T00:00:00Z",
                                "before a replay with --rules next.yaml")
                        ]),
                ]),
            Command(
                "metadata", "which metadata there is",
                subcommands: [
                    Command(
                        "keys", "each metadata key with its class, since when and why, and how often it came",
                        discussion: [
                            "Asks a running API where --api is given, else reads the store of the configuration itself. "
                                + "Without --from it looks at the last 24 hours."
                        ],
                        options: [
                            Option("from", "TIME", "first instant, RFC 3339", standard: "24 hours before --to"),
                            Option("to", "TIME", "end, not included, RFC 3339", standard: "now"),
                            Option("api", "URL", "ask this API; its key in MILLRACE_API_KEY"),
                            Option("json", nil, "the API's answer as it is"),
                        ],
                        examples: [
                            Example("millrace metadata keys", "which keys are no dimensions any longer, and why")
                        ])
                ]),
            Command(
                "mock-provider", "an OpenAI-compatible upstream for tries and tests",
                options: [
                    Option("listen", "HOST:PORT", "where to answer", standard: "127.0.0.1:8786"),
                    Option("latency-ms", "N", "wait before each answer", standard: "0"),
                    Option("error-rate", "F", "share of requests answered with an error, 0 to 1", standard: "0"),
                    Option("chunk-interval-ms", "N", "wait between the parts of a streamed answer", standard: "0"),
                ],
                examples: [
                    Example("millrace mock-provider --listen 127.0.0.1:8786 --latency-ms 200", "a slow provider")
                ], takesConfiguration: false),
            Command(
                "loadgen", "synthetic events straight into the log",
                options: [
                    Option("events", "N", "how many"),
                    Option("rate", "R", "events a second", standard: "as fast as the log takes them"),
                    Option("seed", "S", "same seed, same events", standard: "1"),
                    Option("from", "TIME", "first event's time, RFC 3339", standard: "now"),
                    Option("to", "TIME", "end of the events' times, RFC 3339", standard: "now"),
                    Option("profile", "NAME", "services or uniform", standard: "services"),
                    Option("ground-truth", "FILE", "write what was sent as JSON lines"),
                    Option("from-file", "FILE", "send these events, JSON lines, instead"),
                    Option("manifests", nil, "tell how many were sent, as a proxy does, for 'millrace reconcile'"),
                ],
                examples: [
                    Example(
                        "millrace loadgen --events 10000 --seed 7", "into the embedded journal, beside a running up"),
                    Example(
                        "millrace loadgen --events 1000000 --rate 5000 --log.kind kafka --ground-truth sent.jsonl",
                        "into Kafka, keeping what was sent"),
                ]),
        ],
        settings: ConfigurationKey.names)
}
