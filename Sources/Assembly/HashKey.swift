// The secret key of hashed metadata values: the configuration's (its environment's), that of a file which it names, or one
// made once beside the journal.

import Configuration
import Cryptography
import Glibc

enum HashKey {
    /// What hashes a value: its first 16 bytes of HMAC-SHA-256, as digits.
    static func hash(_ configuration: MillraceConfiguration) throws -> @Sendable ([UInt8]) -> [UInt8] {
        let hash = KeyedHash(key: try named(configuration) ?? made(beside: configuration.journal.directory))
        return { hash.digits(of: $0) }
    }

    /// For a look at what would be: with the key that is there, else with one of this run's own. Makes no file.
    static func hashOfLook(_ configuration: MillraceConfiguration) throws -> @Sendable ([UInt8]) -> [UInt8] {
        let beside = path(beside: configuration.journal.directory)
        let made = access(beside, F_OK) == 0 ? beside : nil
        guard let key = try named(configuration) ?? made.map(read) ?? SecureRandom.bytes(32) else {
            throw Failure("The system has no random bytes to give.")
        }
        let hash = KeyedHash(key: key)
        return { hash.digits(of: $0) }
    }

    /// nil: the configuration names none.
    private static func named(_ configuration: MillraceConfiguration) throws -> [UInt8]? {
        if let key = configuration.normalization.hashKey { return Array(key.utf8) }
        return try configuration.normalization.hashKeyFile.map(read)
    }

    /// The bytes of the file, a line's end after them left out.
    static func read(_ path: String) throws -> [UInt8] {
        switch readFile(path) {
        case .failure(let problem):
            throw Failure(
                "\(path): \(problem.reason). Make it with: head -c 32 /dev/urandom | base64 > \(path)", status: 2)
        case .success(let text):
            let bytes = Array(withoutLineEnd(text))
            let sizes = ConfigurationKey.hashKeySizes
            guard sizes.contains(bytes.count) else {
                throw Failure(
                    "\(path): holds \(bytes.count) bytes; a key has \(sizes.lowerBound) to \(sizes.upperBound). "
                        + "Make it with: head -c 32 /dev/urandom | base64 > \(path)", status: 2)
            }
            return bytes
        }
    }

    /// `hash.key` in the directory that holds the journal's.
    private static func path(beside journal: String) -> String {
        var parts = journal.split(separator: "/", omittingEmptySubsequences: false)
        while parts.count > 1, parts.last == "" { parts.removeLast() }
        let directory = parts.count > 1 ? parts.dropLast().joined(separator: "/") : "."
        return "\(directory)/hash.key"
    }

    /// Its owner's alone to read.
    private static func made(beside journal: String) throws -> [UInt8] {
        let path = path(beside: journal)
        if access(path, F_OK) == 0 { return try read(path) }
        guard let random = SecureRandom.bytes(32) else { throw Failure("The system has no random bytes to give.") }
        let text = Hexadecimal.digits(random) + [0x0A]
        // Written whole under another name first: a process that starts at the same time sees all of it or none.
        let draft = "\(path).\(getpid())"
        try write(text, to: draft)
        defer { unlink(draft) }
        if link(draft, path) != 0, errno != EEXIST {
            throw Failure("\(path) cannot be made: \(String(cString: strerror(errno))).")
        }
        return try read(path)
    }

    private static func write(_ text: [UInt8], to path: String) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw Failure("\(path) cannot be made: \(String(cString: strerror(errno))). Make its directory writable.")
        }
        defer { close(descriptor) }
        guard Glibc.write(descriptor, text, text.count) == text.count, fsync(descriptor) == 0 else {
            throw Failure("\(path) cannot be written: \(String(cString: strerror(errno))).")
        }
    }
}
