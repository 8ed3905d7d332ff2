// `keys create`, `keys list`, `keys revoke`: straight into the store, beside a running consumer too.

import Access
import CommandLine
import Configuration
import Events
import JSONText
import QueryAPI
import RollupStore

enum KeyCommands {
    static func create(_ invocation: Invocation) throws -> Int32 {
        let workspace = try name(invocation, "workspace", limit: AccessLimits.workspaceSize)
        guard let workspace, !workspace.isEmpty else {
            throw UsageError("--workspace is missing", hint: "such as --workspace \(Preparation.openWorkspace)")
        }
        guard let given = invocation.text("scopes") else {
            throw UsageError("--scopes is missing", hint: "some of ingest,query,admin, such as --scopes ingest,query")
        }
        guard let scopes = AccessScopes(text: given) else {
            throw UsageError("--scopes \(given): not a list of scopes", hint: "some of ingest,query,admin")
        }
        let label = try name(invocation, "name", limit: AccessLimits.nameSize) ?? ""
        let store = try Preparation.openKeyStore(try invocation.configuration(), makesStore: true)
        var random = SystemRandomNumberGenerator()
        let (key, text) = AccessKey.make(
            workspace: workspace, scopes: scopes, name: label, now: SystemFacts.now(), using: &random)
        try store.add(key)
        if invocation.flag("json") {
            let answer: JSONValue = [
                "id": .string(key.id), "key": .string(text), "workspace": .string(workspace),
                "scopes": scopes.json,
            ]
            try Terminal.write(answer.text + "\n")
        } else {
            try Terminal.write(
                """
                \(text)

                This is the only time that the key is shown. It is \(key.id), workspace \(workspace), \
                scopes \(scopes.text).
                Send it as x-portkey-api-key to the proxy; to the API as that or as Authorization: Bearer.

                """)
        }
        return 0
    }

    static func list(_ invocation: Invocation) throws -> Int32 {
        let keys = try Preparation.openKeyStore(try invocation.configuration(), makesStore: true).keys()
        if invocation.flag("json") {
            try Terminal.write(JSONValue.array(keys.map(\.json)).text + "\n")
            return 0
        }
        let rows = keys.map { key in
            [
                key.id, key.workspace, key.scopes.text, RFC3339.format(key.created, offset: nil),
                key.revoked.map { "revoked \(RFC3339.format($0, offset: nil))" } ?? "valid", key.name,
            ]
        }
        try Terminal.write(TextTable(heads: ["id", "workspace", "scopes", "created", "state", "name"], rows).text)
        return 0
    }

    static func revoke(_ invocation: Invocation) throws -> Int32 {
        let id = invocation.arguments[0]
        let store = try Preparation.openKeyStore(try invocation.configuration(), makesStore: true)
        guard let key = try store.revoke(id: id, at: SystemFacts.now()) else {
            let hint =
                id.hasPrefix("mr_") ? "Give its id, not the key itself; " : ""
            throw Failure("There is no key of that id. \(hint)'millrace keys list' shows the ids.")
        }
        if invocation.flag("json") {
            try Terminal.write(key.json.text + "\n")
        } else {
            try Terminal.write("\(key.id) is revoked: proxies and APIs refuse it within ten seconds\n")
        }
        return 0
    }

    private static func name(_ invocation: Invocation, _ option: String, limit: Int) throws -> String? {
        guard let text = invocation.text(option) else { return nil }
        guard text.utf8.count <= limit, text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }) else {
            throw UsageError(
                "--\(option): not a name of up to \(limit) bytes without control characters", hint: "give a shorter one"
            )
        }
        return text
    }
}

extension AccessScopes {
    fileprivate var json: JSONValue { .array(list.map { .string($0) }) }
}

extension AccessKey {
    fileprivate var json: JSONValue {
        [
            "id": .string(id), "name": .string(name), "workspace": .string(workspace), "scopes": scopes.json,
            "created": .string(RFC3339.precise(created)),
            "revoked": revoked.map { .string(RFC3339.precise($0)) } ?? .null,
        ]
    }
}
