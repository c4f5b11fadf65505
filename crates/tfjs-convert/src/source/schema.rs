//! Message descriptions for the text format, read from the `.proto` files of this workspace.

use std::{collections::HashMap, sync::OnceLock};

/// How a field is written on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Integer,
    Bool,
    Float,
    Double,
    Fixed32,
    Bytes,
    Enum(String),
    Message(String),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) kind: Kind,
}

/// Messages by full name without package, enums likewise.
#[derive(Debug, Default)]
pub(super) struct Schema {
    messages: HashMap<String, HashMap<String, Field>>,
    enums: HashMap<String, HashMap<String, i32>>,
}

impl Schema {
    /// The messages of graphs, saved models and checkpoints.
    pub(super) fn get() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            Schema::parse(&[tfjs_format::proto::GRAPH_SCHEMA, include_str!("../../proto/saved_model.proto")])
        })
    }

    pub(super) fn fields(&self, message: &str) -> Option<&HashMap<String, Field>> {
        self.messages.get(message)
    }

    pub(super) fn enum_value(&self, name: &str, value: &str) -> Option<i32> {
        self.enums.get(name)?.get(value).copied()
    }

    fn parse(files: &[&str]) -> Schema {
        let mut schema = Schema::default();
        // Types are resolved once all names are known.
        let mut pending: Vec<(String, String, u32, String)> = Vec::new();
        for file in files {
            let tokens = tokens(file);
            let mut scope: Vec<String> = Vec::new();
            let mut at = 0;
            while let Some(&token) = tokens.get(at) {
                let rest = &tokens[at + 1..];
                match (token, rest) {
                    ("message", [name, "{", ..]) => {
                        scope.push((*name).to_owned());
                        schema.messages.insert(scope.join("."), HashMap::new());
                        at += 3;
                    }
                    ("oneof", [_, "{", ..]) => {
                        scope.push(String::new());
                        at += 3;
                    }
                    ("enum", [name, "{", ..]) => {
                        let full =
                            scope.iter().map(String::as_str).chain([*name]).collect::<Vec<_>>().join(".");
                        at += 3;
                        let values = schema.enums.entry(full).or_default();
                        while let [name, "=", number, ";", ..] = &tokens[at..] {
                            values.insert((*name).to_owned(), number.parse().unwrap_or_default());
                            at += 4;
                        }
                        at += 1;
                    }
                    ("}", _) => {
                        scope.pop();
                        at += 1;
                    }
                    ("syntax" | "package" | "import", _) => {
                        at += rest.iter().position(|t| *t == ";").map_or(1, |n| n + 2);
                    }
                    ("map", ["<", key, ",", value, ">", name, "=", number, ";", ..]) => {
                        let owner = full_name(&scope);
                        let entry = format!("{owner}.{name}.Entry");
                        schema.messages.insert(entry.clone(), HashMap::new());
                        pending.push((entry.clone(), "key".to_owned(), 1, (*key).to_owned()));
                        pending.push((entry.clone(), "value".to_owned(), 2, (*value).to_owned()));
                        pending.push((owner, (*name).to_owned(), number.parse().unwrap_or_default(), entry));
                        at += 10;
                    }
                    ("repeated" | "optional", _) => at += 1,
                    (kind, [name, "=", number, ";", ..]) => {
                        let number = number.parse().unwrap_or_default();
                        pending.push((full_name(&scope), (*name).to_owned(), number, kind.to_owned()));
                        at += 5;
                    }
                    _ => at += 1,
                }
            }
        }
        for (owner, name, number, type_name) in pending {
            let kind = schema.resolve(&owner, &type_name);
            schema.messages.entry(owner).or_default().insert(name, Field { number, kind });
        }
        schema
    }

    fn resolve(&self, owner: &str, name: &str) -> Kind {
        match name {
            "int32" | "int64" | "uint32" | "uint64" => return Kind::Integer,
            "bool" => return Kind::Bool,
            "float" => return Kind::Float,
            "double" => return Kind::Double,
            "fixed32" => return Kind::Fixed32,
            "string" | "bytes" => return Kind::Bytes,
            _ => {}
        }
        let name = name.strip_prefix("tensorflow.").unwrap_or(name);
        // Innermost scope first.
        let mut scope = owner;
        loop {
            let full = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
            if self.messages.contains_key(&full) {
                return Kind::Message(full);
            }
            if self.enums.contains_key(&full) {
                return Kind::Enum(full);
            }
            if scope.is_empty() {
                return Kind::Bytes;
            }
            scope = scope.rfind('.').map_or("", |dot| &scope[..dot]);
        }
    }
}

/// The scopes of messages; those of `oneof`s are empty.
fn full_name(scope: &[String]) -> String {
    scope.iter().filter(|s| !s.is_empty()).map(String::as_str).collect::<Vec<_>>().join(".")
}

fn tokens(source: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            let len =
                if word(first) { rest.find(|c| !word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
            out.push(&rest[..len]);
            rest = rest[len..].trim_start();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Kind, Schema};

    #[test]
    fn nested_maps_and_oneofs_are_found() {
        let schema = Schema::get();
        let field = |m: &str, f: &str| schema.fields(m).and_then(|m| m.get(f)).cloned().unwrap();
        assert_eq!(field("NodeDef", "attr").kind, Kind::Message("NodeDef.attr.Entry".to_owned()));
        assert_eq!(field("NodeDef.attr.Entry", "value").kind, Kind::Message("AttrValue".to_owned()));
        assert_eq!(field("AttrValue", "list").kind, Kind::Message("AttrValue.ListValue".to_owned()));
        assert_eq!(field("MetaGraphDef", "graph_def").kind, Kind::Message("GraphDef".to_owned()));
        assert_eq!(field("CollectionDef", "node_list").number, 1);
        assert_eq!(
            field("BundleHeaderProto", "endianness").kind,
            Kind::Enum("BundleHeaderProto.Endianness".to_owned())
        );
        assert_eq!(schema.enum_value("DataType", "DT_STRING"), Some(7));
    }
}
