// A rules file's tree -> Rules, or everything that is wrong with it at once.

package import JSONText

/// One mistake in a rules file.
package struct RuleProblem: Sendable, Equatable, CustomStringConvertible {
    /// Where: keys joined by dots, list positions in brackets; empty for the file as a whole.
    package var path: String
    /// What is wrong, with the value and what is allowed.
    package var message: String

    package init(path: String, message: String) {
        self.path = path
        self.message = message
    }

    package var description: String { path.isEmpty ? message : "\(path): \(message)" }
}

package struct RulesError: Error, Sendable, Equatable, CustomStringConvertible {
    /// In the order of the file; at least one.
    package var problems: [RuleProblem]

    package var description: String { problems.map(\.description).joined(separator: "\n") }
}

extension Rules {
    /// The form is that of `schemas/rules.schema.json`. Everything but `version` may be left out.
    /// `isStored`: a text that `canonicalText` made, which may say what was observed.
    package static func decode(_ tree: JSONValue, isStored: Bool = false) throws(RulesError) -> Rules {
        var decoder = RulesDecoder(isStored: isStored)
        decoder.decode(tree)
        guard decoder.problems.isEmpty else { throw RulesError(problems: decoder.problems) }
        return decoder.rules
    }
}

private struct RulesDecoder {
    let isStored: Bool
    var rules = Rules()
    var problems: [RuleProblem] = []

    mutating func decode(_ tree: JSONValue) {
        let known =
            ["version", "keys", "values", "limits", "classes", "observe", "budgets"] + (isStored ? ["observed"] : [])
        guard let sections = object(tree, "", known) else { return }
        switch sections["version"] {
        case .some(let version) where version.integer == 1: break
        case .some(let version): report("version", "is \(shown(version)); this program reads 1")
        case nil: report("version", "is missing; write version: 1")
        }
        let keys = sections["keys"].flatMap { object($0, "keys", ["case", "aliases", "drop", "hash"]) } ?? [:]
        let values = sections["values"].flatMap { object($0, "values", ["case", "maps", "arrays"]) } ?? [:]
        // What canonical keys and values depend on comes first.
        if let limits = sections["limits"] { decodeLimits(limits) }
        if let keyCase = keys["case"].flatMap({ choice($0, "keys.case", Rules.KeyCase.self) }) {
            rules.keyCase = keyCase
        }
        if let aliases = keys["aliases"] { decodeAliases(aliases) }
        for (index, text) in strings(keys["drop"], "keys.drop").enumerated() {
            if text.isEmpty { report("keys.drop[\(index)]", "is empty; name a key, or a pattern with *") }
            rules.drop.insert(pattern(text))
        }
        for (index, text) in strings(keys["hash"], "keys.hash").enumerated() {
            if text.contains("*") { report("keys.hash[\(index)]", "is \"\(text)\"; * works in drop only") }
            rules.hash.insert(key(text))
        }
        var valueCases: [[UInt8]: Rules.ValueCase] = [:]
        for (name, value) in pairs(values["case"], "values.case") {
            guard let form = choice(value, "values.case.\(name)", Rules.ValueCase.self) else { continue }
            if valueCases.updateValue(form, forKey: key(name)) ?? form != form { reportTwice("values.case.\(name)") }
        }
        rules.lowered = Set(valueCases.filter { $0.value == .lower }.keys)
        for (name, value) in pairs(values["arrays"], "values.arrays") {
            guard let form = choice(value, "values.arrays.\(name)", Rules.ArrayForm.self) else { continue }
            if name == "default" {
                rules.arrayForm = form
            } else if rules.arrayForms.updateValue(form, forKey: key(name)) ?? form != form {
                reportTwice("values.arrays.\(name)")
            }
        }
        for (name, value) in pairs(values["maps"], "values.maps") { decodeMap(value, name) }
        rules.arrayForms = rules.arrayForms.filter { $0.value != rules.arrayForm }
        for (name, value) in pairs(sections["classes"], "classes") {
            guard let found = named(value, "classes.\(name)", KeyClass.allCases, \.name) else { continue }
            if rules.classes.updateValue(found, forKey: key(name)) ?? found != found { reportTwice("classes.\(name)") }
        }
        if let observe = sections["observe"] { decodeObservation(observe) }
        if let budgets = sections["budgets"] { decodeBudgets(budgets) }
        if let observed = sections["observed"] { decodeObserved(observed) }
    }

    private mutating func decodeObservation(_ tree: JSONValue) {
        let names = ["enabled", "rows_percent", "events", "hour_events", "many_values", "unique_percent"]
        guard let observe = object(tree, "observe", names) else { return }
        if let enabled = observe["enabled"] {
            if let value = enabled.boolean {
                rules.observation.isEnabled = value
            } else {
                report("observe.enabled", "is \(shown(enabled)); true or false")
            }
        }
        func within(_ name: String, _ allowed: ClosedRange<Int64>, _ path: WritableKeyPath<Rules.Observation, Int>) {
            if let number = number(observe[name], "observe.\(name)", allowed) {
                rules.observation[keyPath: path] = number
            }
        }
        within("rows_percent", 1...100, \.rowsPercent)
        within("events", 100...1_000_000_000, \.events)
        within("hour_events", 100...1_000_000_000, \.hourEvents)
        within("many_values", 10...1_000_000_000, \.manyValues)
        within("unique_percent", 1...100, \.uniquePercent)
    }

    private mutating func decodeBudgets(_ tree: JSONValue) {
        guard let budgets = object(tree, "budgets", ["sets", "values", "keys", "workspaces"]) else { return }
        rules.budget = budget(budgets, "budgets", else: rules.budget)
        for (name, value) in pairs(budgets["workspaces"], "budgets.workspaces") {
            let path = "budgets.workspaces.\(name)"
            guard let own = object(value, path, ["sets", "values", "keys"]) else { continue }
            if rules.budgets.updateValue(budget(own, path, else: rules.budget), forKey: name) != nil {
                report(path, "is there twice")
            }
        }
    }

    private mutating func budget(_ tree: [String: JSONValue], _ path: String, else given: Rules.Budget) -> Rules.Budget
    {
        var budget = given
        if let sets = number(tree["sets"], "\(path).sets", 1...10_000_000) { budget.sets = sets }
        if let values = number(tree["values"], "\(path).values", 1...10_000_000) { budget.values = values }
        if let keys = number(tree["keys"], "\(path).keys", 1...100_000) { budget.keys = keys }
        return budget
    }

    private mutating func decodeObserved(_ tree: JSONValue) {
        guard let observed = object(tree, "observed", ["configured", "classes"]) else { return }
        rules.configured = observed["configured"]?.string ?? ""
        for (name, value) in pairs(observed["classes"], "observed.classes") {
            guard let keyClass = named(value["class"] ?? .null, "observed.classes.\(name)", KeyClass.allCases, \.name)
            else { continue }
            // Canonical as it stands: the rules that were configured may have named it otherwise by now.
            rules.observed[Array(name.utf8)] = Rules.Observed(
                keyClass: keyClass, reason: value["reason"]?.string ?? "")
        }
    }

    private mutating func decodeLimits(_ tree: JSONValue) {
        guard let limits = object(tree, "limits", ["keys", "key_bytes", "value_bytes", "depth"]) else { return }
        func within(_ name: String, _ allowed: ClosedRange<Int64>, _ path: WritableKeyPath<Rules.Limits, Int>) {
            if let number = number(limits[name], "limits.\(name)", allowed) { rules.limits[keyPath: path] = number }
        }
        within("keys", 1...1_024, \.keys)
        within("key_bytes", 8...1_024, \.keyBytes)
        within("value_bytes", 40...8_192, \.valueBytes)
        within("depth", 1...16, \.depth)
    }

    /// nil where there is none, or a mistake.
    private mutating func number(_ value: JSONValue?, _ path: String, _ allowed: ClosedRange<Int64>) -> Int? {
        guard let value else { return nil }
        guard let number = value.integer, allowed.contains(number) else {
            report(path, "is \(shown(value)); a whole number from \(allowed.lowerBound) to \(allowed.upperBound)")
            return nil
        }
        return Int(number)
    }

    private mutating func decodeAliases(_ tree: JSONValue) {
        var aliases: [[UInt8]: [UInt8]] = [:]
        for (name, value) in pairs(tree, "keys.aliases") {
            guard let target = value.string else {
                report("keys.aliases.\(name)", "is \(shown(value)); a key's name")
                continue
            }
            let (from, to) = (key(name), key(target))
            if let other = aliases[from], other != to {
                reportTwice("keys.aliases.\(name)")
            }
            aliases[from] = to
        }
        rules.aliases = followed(aliases, "keys.aliases")
    }

    private mutating func decodeMap(_ tree: JSONValue, _ name: String) {
        let key = key(name)
        var map: [[UInt8]: [UInt8]] = [:]
        for (from, value) in pairs(tree, "values.maps.\(name)") {
            guard let to = value.string ?? value.numberText ?? value.boolean.map({ $0 ? "true" : "false" }) else {
                report("values.maps.\(name).\(from)", "is \(shown(value)); a text, a number or a boolean")
                continue
            }
            map[CanonicalText.composed(Array(from.utf8))] = rules.canonicalValue(Array(to.utf8), of: key).value
        }
        if rules.maps[key] != nil { reportTwice("values.maps.\(name)") }
        rules.maps[key] = followed(map, "values.maps.\(name)")
    }

    /// Chains end at their last link; a circle has none.
    private mutating func followed(_ links: [[UInt8]: [UInt8]], _ path: String) -> [[UInt8]: [UInt8]] {
        var followed: [[UInt8]: [UInt8]] = [:]
        for (from, to) in links where from != to {
            var end = to
            var steps = 0
            while let next = links[end], next != end, steps <= links.count {
                end = next
                steps += 1
            }
            if steps > links.count {
                report(
                    "\(path).\(String(decoding: from, as: UTF8.self))", "leads in a circle; one name must be the last")
            }
            followed[from] = end
        }
        return followed
    }

    // MARK: Keys as the rules have them

    private func key(_ text: String) -> [UInt8] { rules.canonicalKey(Array(text.utf8)).key }

    /// A name without a star is a key like any other; around stars the case rule holds part by part.
    private func pattern(_ text: String) -> [UInt8] {
        guard text.contains("*") else { return key(text) }
        let parts = CanonicalText.composed(Array(text.utf8))
            .split(separator: UInt8(ascii: "*"), omittingEmptySubsequences: false)
        return Array(parts.map { rules.cased(Array($0)) }.joined(separator: [UInt8(ascii: "*")]))
    }

    // MARK: Reading the tree

    private mutating func object(_ tree: JSONValue, _ path: String, _ known: [String]) -> [String: JSONValue]? {
        if tree.isNull, !path.isEmpty { return [:] }
        guard let members = tree.members else {
            report(path, "is \(shown(tree)); an object with \(known.joined(separator: ", "))")
            return nil
        }
        var found: [String: JSONValue] = [:]
        for member in members {
            let place = path.isEmpty ? member.key : "\(path).\(member.key)"
            if !known.contains(member.key) {
                report(place, "is unknown; known are \(known.joined(separator: ", "))")
            } else if found.updateValue(member.value, forKey: member.key) != nil {
                report(place, "is there twice")
            }
        }
        return found
    }

    private mutating func pairs(_ tree: JSONValue?, _ path: String) -> [(String, JSONValue)] {
        guard let tree, !tree.isNull else { return [] }
        guard let members = tree.members else {
            report(path, "is \(shown(tree)); an object")
            return []
        }
        return members.map { ($0.key, $0.value) }
    }

    private mutating func strings(_ tree: JSONValue?, _ path: String) -> [String] {
        guard let tree, !tree.isNull else { return [] }
        guard let elements = tree.array else {
            report(path, "is \(shown(tree)); a list of names")
            return []
        }
        return elements.enumerated().compactMap { index, element in
            if element.string == nil { report("\(path)[\(index)]", "is \(shown(element)); a name") }
            return element.string
        }
    }

    private mutating func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _ tree: JSONValue, _ path: String, _: Choice.Type
    ) -> Choice? {
        named(tree, path, Array(Choice.allCases), \.rawValue)
    }

    private mutating func named<Choice>(
        _ tree: JSONValue, _ path: String, _ choices: [Choice], _ name: (Choice) -> String
    ) -> Choice? {
        if let found = choices.first(where: { name($0) == tree.string }) { return found }
        report(path, "is \(shown(tree)); one of \(choices.map(name).joined(separator: ", "))")
        return nil
    }

    private mutating func report(_ path: String, _ message: String) {
        problems.append(RuleProblem(path: path, message: message))
    }

    private mutating func reportTwice(_ path: String) {
        report(path, "is the same key as another one here, and they say different things")
    }

    private func shown(_ tree: JSONValue) -> String {
        let text = tree.text
        return text.count > 40 ? String(text.prefix(40)) + "…" : text
    }
}
