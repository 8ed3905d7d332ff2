// What the proxy is set up with.

package import HTTPTransport
package import Normalizer

package struct ProxyOptions: Sendable {
    /// `HOST:PORT`; port 0 picks a free one.
    package var listen: String
    /// Event loops, each with a listener, a pool and a journal lane of its own.
    package var loops: Int
    package var providers: [Provider]
    /// Metadata that does not parse gets 400 instead of an event that says so.
    package var strictMetadata: Bool
    package var metadataMaxSize: Int
    package var tls: TLSContext?
    /// Until `ProxyService.update` says otherwise.
    package var access: ProxyAccess
    package var prices: PriceTable
    /// The answer's last byte waits until its event is on disk (`journal.fsync: always`).
    package var holdsForDurability: Bool
    /// Hides in the metadata what the rules drop and hash, before the journal; nil where they hide nothing.
    package var redactor: Redactor?
    package var clients = ClientLimits()
    /// Of all loops together.
    package var upstream = UpstreamLimits()
    /// Exchanges under way at once, in all; and of one key, 0 for no limit.
    package var concurrency = 10_000
    package var concurrencyPerKey = 0
    /// Another process may have the port: the one that this takes over from, or that takes over.
    package var sharesPort = false
    /// What `stop` waits for exchanges under way.
    package var drainMilliseconds: UInt64 = 10_000
    /// How long of that idle connections stay open, so that a client in the act of using one is answered.
    package var drainGraceMilliseconds: UInt64 = 1_000

    package init(
        listen: String, loops: Int, providers: [Provider], strictMetadata: Bool, metadataMaxSize: Int, tls: TLSContext?,
        access: ProxyAccess, prices: PriceTable, holdsForDurability: Bool, redactor: Redactor? = nil
    ) {
        self.listen = listen
        self.loops = loops
        self.providers = providers
        self.strictMetadata = strictMetadata
        self.metadataMaxSize = metadataMaxSize
        self.tls = tls
        self.access = access
        self.prices = prices
        self.holdsForDurability = holdsForDurability
        self.redactor = redactor
    }
}
