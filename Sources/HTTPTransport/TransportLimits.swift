// Every limit of the transport, in one place. What is configurable has its key under `proxy.` and its default here.

/// Towards providers. Counts are of the process: each event loop has its share of them.
///
/// | limit | unit | default | ceiling | why | at the limit |
/// | --- | --- | --- | --- | --- | --- |
/// | `connectMilliseconds` | ms an address | 10,000 | 600,000 | a dead address is left for the next one | next address, then 504 |
/// | `firstByteMilliseconds` | ms | 600,000 | 3,600,000 | long completions think for minutes | 504, outcome `timeout` |
/// | `idleMilliseconds` | ms between two reads | 600,000 | 3,600,000 | a silent provider holds a client | answer cut, `timeout` |
/// | `keepMilliseconds` | ms unused | 55,000 | 3,600,000 | below the 60 s after which load balancers close | closed |
/// | `ageMilliseconds` | ms since made | 3,600,000 | 86,400,000 | names move; connections should follow | closed when free |
/// | `idleConnections` | an origin | 256 | 65,536 | a burst's connections are worth keeping, not for ever | oldest closed |
/// | `connections` | an origin | 4,096 | 65,536 | a provider's and our own descriptors | requests wait |
/// | `waiting` | requests an origin | 4,096 | 65,536 | memory of what waits | 503 with `retry-after` |
/// | `waitMilliseconds` | ms | 10,000 | 600,000 | an answer that says so beats a client's own timeout | 503 with `retry-after` |
/// | waiting for a name's address | requests a name | 4,096 | fixed | memory of what waits | 503 with `retry-after` |
/// | names being looked up | at once | 4 | fixed | each is a thread | the next waits its turn |
package struct UpstreamLimits: Sendable {
    package var connectMilliseconds: UInt64 = 10_000
    package var firstByteMilliseconds: UInt64 = 600_000
    package var idleMilliseconds: UInt64 = 600_000
    package var keepMilliseconds: UInt64 = 55_000
    package var ageMilliseconds: UInt64 = 3_600_000
    package var idleConnections = 256
    package var connections = 4_096
    package var waiting = 4_096
    package var waitMilliseconds: UInt64 = 10_000

    package init() {}

    /// One loop's share of the counts, at least one each.
    package func divided(among loops: Int) -> UpstreamLimits {
        var share = self
        share.idleConnections = (idleConnections + loops - 1) / loops
        share.connections = max(1, connections / loops)
        share.waiting = (waiting + loops - 1) / loops
        return share
    }
}

/// Towards clients. Counts are of all listeners that share the budget.
///
/// | limit | unit | default | ceiling | why | at the limit |
/// | --- | --- | --- | --- | --- | --- |
/// | `connections` | open at once | 20,000 | 1,000,000 | descriptors and memory | 503 with `retry-after`, closed |
/// | connections told so at once | an eighth of that, and 16 | | fixed | telling costs a descriptor too | closed untold |
/// | `idleMilliseconds` | ms | 75,000 | 3,600,000 | between requests, and for a head to arrive whole | closed |
/// | `stallMilliseconds` | ms | 60,000 | 3,600,000 | a client that takes or sends nothing in mid-exchange | closed, `cancelled` |
/// | bytes read ahead of their turn | bytes | 65,536 | fixed | pipelined requests | the socket is not read on |
/// | bytes waiting for a slow peer | bytes | 262,144 and one read | fixed | back-pressure, both ways | its source is not read on |
/// | process out of descriptors | | | the system's | | accepting rests for 100 ms at a time |
package struct ClientLimits: Sendable {
    package var connections = 20_000
    package var idleMilliseconds: UInt64 = 75_000
    package var stallMilliseconds: UInt64 = 60_000

    package init() {}

    /// Beyond the limit by so many a connection is still told why.
    var toldConnections: Int { connections / 8 + 16 }
}
