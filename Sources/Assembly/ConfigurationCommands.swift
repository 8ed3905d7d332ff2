// `config check`, `config print`, `config schema`, `config reference`.

import CommandLine
import Configuration
import JSONText

enum ConfigurationCommands {
    static func check(_ invocation: Invocation) throws -> Int32 {
        do {
            _ = try Preparation.read(try invocation.configuration())
            try Terminal.write(invocation.flag("json") ? "{\"ok\":true,\"problems\":[]}\n" : "ok\n")
            return 0
        } catch let error as ConfigurationError where invocation.flag("json") {
            let problems = JSONValue.array(error.problems.map { .string($0) })
            try Terminal.write(
                JSONValue.object([.init(key: "ok", value: false), .init(key: "problems", value: problems)]).text + "\n")
            return 2
        }
    }

    static func print(_ invocation: Invocation) throws -> Int32 {
        let settings = try invocation.configuration().settings
        try Terminal.write(invocation.flag("json") ? settings.json : settings.yaml)
        return 0
    }

    static func reference(_ invocation: Invocation) throws -> Int32 {
        let text = invocation.flag("json") ? ConfigurationReference.json.text + "\n" : ConfigurationReference.markdown
        try Terminal.write(text)
        return 0
    }

    static func schema() throws -> Int32 {
        try Terminal.write(ConfigurationSchema.text())
        return 0
    }
}
