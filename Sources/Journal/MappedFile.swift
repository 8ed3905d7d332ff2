// A file with its mapping, closed together: the only place where the journal opens and maps files.

import Glibc

/// Owns a descriptor and a shared mapping of the file's first `mappedSize` bytes.
///
/// @unchecked: the fields never change; what threads and processes write through `page` follows SegmentFormat.swift.
final class MappedFile: @unchecked Sendable {
    let descriptor: Int32
    let page: UnsafeMutableRawPointer
    let mappedSize: Int

    /// Maps an open file, which it takes over; on failure the file is closed and errno says why.
    init?(descriptor: Int32, size: Int, writable: Bool) {
        let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
        let mapped = mmap(nil, size, protection, MAP_SHARED, descriptor, 0)
        guard let mapped, mapped != MAP_FAILED else {
            let reason = errno
            close(descriptor)
            errno = reason
            return nil
        }
        self.descriptor = descriptor
        page = mapped
        mappedSize = size
    }

    /// Opens and maps the head of an existing file; nil where it is absent or shorter.
    convenience init?(path: String, size: Int, writable: Bool) {
        let file = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC)
        guard file >= 0 else { return nil }
        var facts = stat()
        guard fstat(file, &facts) == 0, facts.st_size >= size else {
            close(file)
            errno = EINVAL
            return nil
        }
        self.init(descriptor: file, size: size, writable: writable)
    }

    deinit {
        munmap(page, mappedSize)
        close(descriptor)
    }

    var size: Int {
        var facts = stat()
        return fstat(descriptor, &facts) == 0 ? Int(facts.st_size) : 0
    }
}

extension MappedFile {
    /// Makes a file of one mapped page or so, filled by `fill`: aside, and linked into place whole, since several
    /// processes may find a new lane without it. The one that came first is what all of them get.
    static func make(
        _ path: String, size: Int, fill: (UnsafeMutableRawPointer) -> Void
    ) throws(JournalError) -> MappedFile {
        let draft = "\(path).\(getpid()).\(UInt32.random(in: .min ... .max))"
        let made = open(draft, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard made >= 0 else { throw JournalError.system("create \(draft)", errno: errno) }
        defer { unlink(draft) }
        // Blocks of its own: a mapped hole on a full disk would end the process.
        let status = posix_fallocate(made, 0, off_t(size))
        guard status == 0 else {
            close(made)
            throw JournalError.system("allocate \(draft)", errno: status)
        }
        guard let fresh = MappedFile(descriptor: made, size: size, writable: true) else {
            throw JournalError.system("map \(draft)", errno: errno)
        }
        fill(fresh.page)
        if link(draft, path) == 0 { return fresh }
        let reason = errno
        if let other = MappedFile(path: path, size: size, writable: true) { return other }
        throw JournalError.system("create \(path)", errno: reason)
    }
}

/// Reads up to `count` bytes; short at the end of the file, and after an error what was read before it.
func readFile(_ descriptor: Int32, at position: Int, into buffer: UnsafeMutableRawBufferPointer) -> Int {
    guard let address = buffer.baseAddress else { return 0 }
    var done = 0
    while done < buffer.count {
        let count = pread(descriptor, address + done, buffer.count - done, off_t(position + done))
        if count < 0 && errno == EINTR { continue }
        if count <= 0 { break }
        done += count
    }
    return done
}

/// All of it, or false with errno.
package func writeFile(_ descriptor: Int32, _ bytes: [UInt8]) -> Bool {
    bytes.withUnsafeBytes { buffer in
        guard let address = buffer.baseAddress else { return true }
        var done = 0
        while done < buffer.count {
            let count = write(descriptor, address + done, buffer.count - done)
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return false }
            done += count
        }
        return true
    }
}

/// Names in a directory; empty where it cannot be read.
func namesInDirectory(_ path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    guard let nameAt = MemoryLayout<dirent>.offset(of: \dirent.d_name) else { return [] }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = UnsafeRawPointer(entry).advanced(by: nameAt).assumingMemoryBound(to: CChar.self)
        names.append(String(cString: name))
    }
    return names
}

/// Makes a directory's entries durable. Best effort: not every file system lets a directory be synced.
func syncDirectory(_ path: String) {
    let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { return }
    fsync(directory)
    close(directory)
}

/// Renames what cannot be understood to `PATH.bad` (or `.bad.2`, …): kept for analysis, out of the way.
func quarantine(_ path: String) -> Bool {
    for attempt in 1..<100 {
        let target = attempt == 1 ? "\(path).bad" : "\(path).bad.\(attempt)"
        if access(target, F_OK) == 0 { continue }
        return rename(path, target) == 0
    }
    return false
}
