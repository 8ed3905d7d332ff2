import Events
import Testing

@Suite struct EventIDTests {
    @Test func textAndBytesGoBothWays() throws {
        let id = EventID(time: EventTime(microseconds: 1_760_000_000_000_000), random: (0x0123_4567_89ab_cdef, .max))
        #expect(EventID(text: id.description) == id)
        #expect(EventID(bytes: id.bytes.span) == id)
        #expect(id.description.utf8.count == 36)
        #expect(Array(id.description)[14] == "7")
    }

    @Test(arguments: ["", "0", "01234567-89ab-7def-8123-456789abcde", "01234567-89ab-7def-8123-456789abcdeg"])
    func otherTextIsNoID(_ text: String) {
        #expect(EventID(text: text) == nil)
    }
}
