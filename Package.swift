// swift-tools-version: 6.2
import PackageDescription

// The straight path of a record, one folder a step; arrows point one way:
// pure <- ports <- adapters <- services <- Assembly. `.ci/check-imports` holds the code to it.

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
    // Places where a test may end the process (`FailPoint`): never in a build for release.
    .define("MILLRACE_FAIL_POINTS", .when(configuration: .debug)),
]

func module(_ name: String, _ dependencies: [String] = [], excluding excluded: [String] = []) -> Target {
    .target(
        name: name, dependencies: dependencies.map { .init(stringLiteral: $0) }, exclude: excluded,
        swiftSettings: strict)
}

func library(_ name: String, pkgConfig: String? = nil) -> Target {
    .systemLibrary(name: name, path: "Sources/CLibraries/\(name)", pkgConfig: pkgConfig)
}

/// What `millrace --version` says besides the version; the Makefile tells it.
let commit = Context.environment["MILLRACE_COMMIT"] ?? "unknown"

func tests(_ name: String, _ dependencies: [String], resources: [Resource] = []) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: dependencies.map { .init(stringLiteral: $0) },
        resources: resources, swiftSettings: strict)
}

let package = Package(
    name: "millrace",
    products: [
        .executable(name: "millrace", targets: ["millrace"]),
        .library(name: "CFaults", type: .dynamic, targets: ["CFaults"]),
    ],
    targets: [
        // C libraries
        library("CCurl", pkgConfig: "libcurl"),
        library("CLibevent", pkgConfig: "libevent"),
        library("CHTTPParser"),
        library("COpenSSL", pkgConfig: "openssl"),
        library("CCrypto", pkgConfig: "libcrypto"),
        library("CPQ", pkgConfig: "libpq"),
        library("CRDKafka", pkgConfig: "rdkafka"),
        library("CSQLite", pkgConfig: "sqlite3"),
        library("CYAML", pkgConfig: "yaml-0.1"),
        library("CZlib", pkgConfig: "zlib"),
        // Not a library to link: schemas/, the page and its chart library, taken in at build.
        .target(name: "CEmbedded", path: "Sources/CLibraries/CEmbedded"),
        // Nor this: one function that says which commit was built.
        .target(
            name: "CBuild", path: "Sources/CLibraries/CBuild", cSettings: [.define("MILLRACE_COMMIT", to: commit)]),

        // Pure: values and decisions
        module("Events"),
        module("JSONText"),
        module("EventCodec", ["Events"]),
        module("Access", ["Cryptography", "Events", "JSONText"]),
        module("HTTPMessages"),
        module("Normalizer", ["Events", "JSONText"]),
        module("Rollups", ["Events", "EventCodec", "Normalizer"]),
        module("CommandLine"),
        module("Schemas", ["CEmbedded"]),

        // Shared by every service
        module("Cryptography", ["CCrypto"]),
        module("Telemetry", ["CBuild"]),
        module("Threading"),

        // Ports
        module("RecordLog", ["Events"]),
        module("RollupStore", ["Access", "Events", "JSONText", "Normalizer", "RecordLog", "Rollups"]),
        module("Queries", ["Events", "JSONText", "Normalizer", "Rollups", "RollupStore"]),

        // Adapters
        module(
            "HTTPTransport",
            ["HTTPMessages", "Telemetry", "Threading", "CLibevent", "CHTTPParser", "COpenSSL", "CZlib"]),
        module("Journal", ["EventCodec", "Events", "RecordLog", "Telemetry", "Threading"]),
        module("RecordLogKafka", ["Events", "RecordLog", "Telemetry", "Threading", "CRDKafka"]),
        module(
            "RollupStoreSQLite",
            [
                "Access", "Events", "JSONText", "RecordLog", "Rollups", "RollupStore", "Schemas", "Telemetry",
                "Threading", "CSQLite",
            ]),
        module(
            "RollupStorePostgreSQL",
            ["Access", "EventCodec", "Events", "RecordLog", "Rollups", "RollupStore", "Schemas", "Threading", "CPQ"]),
        module(
            "RollupStoreClickHouse",
            [
                "Access", "Events", "EventCodec", "RecordLog", "Rollups", "RollupStore", "Schemas", "Threading",
                "CCurl",
            ]),

        // Services
        module(
            "CaptureProxy",
            [
                "Access", "Events", "EventCodec", "HTTPMessages", "HTTPTransport", "Journal", "JSONText", "Normalizer",
                "RecordLog", "Telemetry", "Threading",
            ]),
        module("KeyKeeping", ["Access", "RollupStore", "Telemetry", "Threading"]),
        module("Shipping", ["Events", "Journal", "RecordLog", "Telemetry", "Threading"]),
        module(
            "Ingest",
            [
                "Access", "Cryptography", "Events", "EventCodec", "JSONText", "Normalizer", "RecordLog", "Rollups",
                "RollupStore", "Telemetry", "Threading",
            ]),
        module(
            "Replay",
            [
                "EventCodec", "Events", "Ingest", "JSONText", "Normalizer", "RecordLog", "Rollups", "RollupStore",
                "Threading",
            ]),
        module(
            "Reconciling",
            ["EventCodec", "Events", "Journal", "JSONText", "RecordLog", "RollupStore", "Telemetry", "Threading"]),
        module(
            "QueryAPI",
            [
                "Access", "Cryptography", "Events", "HTTPTransport", "JSONText", "Queries", "RecordLog", "Rollups",
                "RollupStore", "Schemas", "Telemetry", "CEmbedded",
            ], excluding: ["Page"]),
        module(
            "Simulation", ["Events", "EventCodec", "HTTPTransport", "JSONText", "RecordLog", "Telemetry", "Threading"]),

        // Wiring
        module("Configuration", ["CommandLine", "JSONText", "Schemas", "CYAML"]),
        module(
            "Assembly",
            [
                "Access", "CaptureProxy", "CommandLine", "Configuration", "Cryptography", "EventCodec", "Events",
                "HTTPTransport", "Ingest", "Journal", "JSONText", "KeyKeeping",
                "Normalizer", "Queries", "QueryAPI", "Reconciling", "RecordLog", "Replay", "RecordLogKafka",
                "RollupStore",
                "RollupStoreClickHouse", "RollupStorePostgreSQL", "RollupStoreSQLite", "Rollups", "Schemas", "Shipping",
                "Simulation", "Telemetry", "Threading", "CCurl",
            ]),
        .executableTarget(name: "millrace", dependencies: ["Assembly"], swiftSettings: strict),

        // Tests
        .target(name: "CFaults", path: "Tests/CFaults", publicHeadersPath: "."),
        tests(
            "Pure", ["Access", "Cryptography", "Events", "EventCodec", "JSONText", "Normalizer", "Rollups", "Schemas"]),
        tests("KeyKeeping", ["Access", "Events", "KeyKeeping", "RollupStore", "Telemetry", "Threading"]),
        tests(
            "Reconciling",
            [
                "EventCodec", "Events", "Ingest", "Journal", "Normalizer", "Reconciling", "RecordLog", "RollupStore",
                "RollupStoreSQLite", "Telemetry", "Threading",
            ]),
        tests("HTTP", ["HTTPMessages", "HTTPTransport", "Telemetry", "Threading"]),
        tests("Journal", ["EventCodec", "Events", "Journal", "RecordLog", "Shipping", "Telemetry", "Threading"]),
        tests("Kafka", ["Events", "RecordLog", "RecordLogKafka", "Telemetry", "Threading"]),
        tests(
            "Store",
            [
                "Access", "Events", "EventCodec", "Ingest", "JSONText", "Normalizer", "Queries", "RecordLog", "Replay",
                "Rollups", "RollupStore",
                "RollupStoreClickHouse", "RollupStorePostgreSQL", "RollupStoreSQLite", "Telemetry", "Threading", "CPQ",
                "CSQLite",
            ]),
        tests(
            "Query",
            [
                "Access", "Events", "EventCodec", "HTTPTransport", "JSONText", "Normalizer", "Queries", "QueryAPI",
                "RecordLog",
                "Rollups",
                "RollupStore", "RollupStoreSQLite", "Telemetry",
            ]),
        tests(
            "Simulation",
            ["Events", "EventCodec", "HTTPTransport", "JSONText", "RecordLog", "Simulation", "Telemetry", "Threading"]),
        tests("Configuration", ["CommandLine", "Configuration", "Normalizer", "Schemas"]),
        tests(
            "Proxy",
            [
                "Access", "CaptureProxy", "EventCodec", "Events", "HTTPMessages", "HTTPTransport", "Journal",
                "JSONText",
                "RecordLog", "Schemas", "Telemetry", "Threading", "COpenSSL", "CZlib",
            ]),
        tests("Pipeline", ["CRDKafka", "JSONText", "Simulation", "Threading"]),
        tests(
            "Fault",
            [
                "CRDKafka", "CSQLite", "EventCodec", "Events", "Ingest", "Journal", "JSONText", "Normalizer",
                "RecordLog", "RecordLogKafka", "RollupStore", "RollupStoreSQLite", "Rollups", "Shipping", "Simulation",
                "Telemetry", "Threading",
            ]),
    ]
)
