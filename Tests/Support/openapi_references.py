"""References within an OpenAPI document: `{"$ref": "#/components/…"}`."""


def resolver(document):
    """What a part of the document stands for, whatever it refers to."""

    def resolved(part):
        while "$ref" in part:
            target = document
            for step in part["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            part = target
        return part

    return resolved
