// API keys in the ClickHouse store: a connection a call, since calls are rare.
//
// Changes are only ever added. What holds follows from all of them in the order in which the server made them visible, as
// with commits (CommitLog.swift); a change is made by adding it and looking whether it holds.

package import Access
package import Events
package import RollupStore

package struct ClickHouseKeyStore: KeyStore {
    private let location: ClickHouseLocation

    private let tables: Tables

    init(_ location: ClickHouseLocation, _ tables: Tables) {
        self.location = location
        self.tables = tables
    }

    private func connect() throws(RollupStoreError) -> Connection {
        let connection = try Connection(location)
        try tables.make(connection)
        return connection
    }

    package func add(_ key: AccessKey) throws(RollupStoreError) {
        let connection = try connect()
        let entry = EntryID.random()
        try put(key, revoked: nil, entry, connection)
        if try !read(connection).contains(where: { $0.entry == entry }) {
            throw RollupStoreError(
                code: .configuration, tried: "add the key \(key.id)", reason: "there is one of that id or text",
                next: "Make another one.")
        }
    }

    package func keys() throws(RollupStoreError) -> [AccessKey] {
        try read(try connect()).map(\.key).sorted { ($0.created, $0.id) < ($1.created, $1.id) }
    }

    package func revoke(id: String, at time: EventTime) throws(RollupStoreError) -> AccessKey? {
        let connection = try connect()
        guard let known = try read(connection).first(where: { $0.key.id == id })?.key else { return nil }
        if known.revoked != nil { return known }
        try put(known, revoked: time, .random(), connection)
        return try read(connection).first { $0.key.id == id }?.key
    }

    private func put(
        _ key: AccessKey, revoked: EventTime?, _ entry: EntryID, _ connection: Connection
    ) throws(RollupStoreError) {
        var block = NativeBlock(rows: 1)
        block.pairs("entry", "FixedString(16)") { _ in (entry.high, entry.low) }
        block.strings("id") { _ in Array(key.id.utf8) }
        block.optionalIntegers("revoked_us") { _ in revoked?.microseconds }
        block.strings("digest") { _ in key.digest.bytes }
        block.strings("workspace") { _ in Array(key.workspace.utf8) }
        block.constant("scopes", key.scopes.rawValue)
        block.strings("name") { _ in Array(key.name.utf8) }
        block.constant("created_us", key.created.microseconds)
        try connection.insert(block, into: "key_changes", token: "key-\(entry.high)-\(entry.low)")
    }

    /// The keys that hold, with what made each.
    private func read(_ connection: Connection) throws(RollupStoreError) -> [(entry: EntryID, key: AccessKey)] {
        var answer = try connection.select(
            ["entry", "id", "revoked_us", "digest", "workspace", "scopes", "name", "created_us"],
            "FROM key_changes ORDER BY _block_number", "read the API keys")
        var all: [(entry: EntryID, key: AccessKey)] = []
        while try answer.next() {
            let entry = try EntryID(&answer)
            let id = try answer.text()
            let revoked = try answer.optionalInteger(Int64.self)
            let bytes = try answer.byteString()
            guard let digest = Digest(bytes: bytes) else {
                throw RollupStoreError(
                    code: .corrupt, tried: "read the API keys", reason: "a digest has not 32 bytes",
                    next: "Restore the table key_changes.")
            }
            let key = AccessKey(
                id: id, digest: digest, workspace: try answer.text(),
                scopes: AccessScopes(rawValue: try answer.integer()),
                name: try answer.text(), created: EventTime(microseconds: try answer.integer()), revoked: nil)
            if let revoked {
                for place in all.indices where all[place].key.id == id && all[place].key.revoked == nil {
                    all[place].key.revoked = EventTime(microseconds: revoked)
                }
            } else if !all.contains(where: { $0.key.id == id || $0.key.digest == digest }) {
                all.append((entry, key))
            }
        }
        return all
    }
}
