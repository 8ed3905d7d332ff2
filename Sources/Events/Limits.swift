// Every limit on an event, in one table. A test reaches each.

/// | limit | unit | default | why | at the limit |
/// | --- | --- | --- | --- | --- |
/// | `recordSize` | bytes | 256 KiB | a record must fit Kafka's default message size with room | dead letter `too_large` |
/// | `textSize` | bytes | 512 | names of models, errors, traces | cut at a character boundary |
/// | `rejectedMetadataSize` | bytes | 1,024 | enough to see what a client sends | cut |
/// | `metadataSize` | bytes | 8,192 (ceiling 65,536) | `proxy.metadata.max_size_bytes` | status `too_large` |
package enum EventLimits {
    package static let recordSize = 262_144
    package static let textSize = 512
    package static let rejectedMetadataSize = 1_024
    package static let metadataSize = 8_192
    package static let metadataSizeCeiling = 65_536
}
