// Places at which a test ends the process as `kill -9` would. Builds for release contain none of them.

#if MILLRACE_FAIL_POINTS
    import Glibc
    import Synchronization

    /// `MILLRACE_TEST_FAIL_AT=NAME` or `NAME:N`: the process dies when it passes the place for the Nth time.
    private let wanted: (name: String, passes: Int)? = {
        guard let text = getenv("MILLRACE_TEST_FAIL_AT").map({ String(cString: $0) }) else { return nil }
        let parts = text.split(separator: ":")
        guard let name = parts.first else { return nil }
        return (String(name), parts.count > 1 ? Int(parts[1]) ?? 1 : 1)
    }()
    private let passed = Atomic<Int>(0)

    package func failPoint(_ name: StaticString) {
        guard let wanted, wanted.name == "\(name)" else { return }
        if passed.add(1, ordering: .relaxed).newValue == wanted.passes { kill(getpid(), SIGKILL) }
    }
#else
    @inline(__always)
    package func failPoint(_ name: StaticString) {}
#endif
