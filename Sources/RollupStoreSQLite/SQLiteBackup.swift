// A copy of the embedded store while it is written: one state of it, whole, in a file of its own.

import CSQLite
import Glibc
package import RollupStore

extension SQLiteRollupStore {
    /// Writes the state of this moment to a new file, its owner's alone, and answers its size in bytes. Ingest goes on. A
    /// file that is there is not touched; one that was begun and could not be finished is removed.
    package func backUp(to target: String) throws(RollupStoreError) -> Int64 {
        func failure(_ reason: String, _ next: String) -> RollupStoreError {
            RollupStoreError(code: .configuration, tried: "back up the store to \(target)", reason: reason, next: next)
        }
        // Made here, so that nobody else can have made it, nor read it.
        let descriptor = Glibc.open(target, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            let reason = String(cString: strerror(errno))
            throw failure(
                reason, errno == EEXIST ? "Name another file." : "Name a file in a directory that can be written.")
        }
        defer { Glibc.close(descriptor) }
        do throws(RollupStoreError) {
            let connection = try Connection(path: path, access: .copy)
            // An empty file is taken for a new one.
            let copy = try connection.statement("VACUUM INTO ?1")
            copy.bind(1, copying: target)
            try copy.run()
        } catch {
            unlink(target)
            throw failure(error.reason, error.next)
        }
        var found = stat()
        guard fsync(descriptor) == 0, fstat(descriptor, &found) == 0 else {
            throw failure(String(cString: strerror(errno)), "Look at the disk, and back up again.")
        }
        return Int64(found.st_size)
    }
}
