// The port to the store's API keys: a short list, written by a command and read by proxies and APIs now and then.

package import Access
package import Events

/// For any thread. Independent of the ingest writer: it works while another process ingests.
package protocol KeyStore: Sendable {
    /// The key is in the store when this returns.
    func add(_ key: AccessKey) throws(RollupStoreError)

    /// Every key, revoked ones too, by time of making, then id.
    func keys() throws(RollupStoreError) -> [AccessKey]

    /// The key as it now is; nil where there is none of that id. A key that is revoked already stays as it is.
    func revoke(id: String, at time: EventTime) throws(RollupStoreError) -> AccessKey?
}
