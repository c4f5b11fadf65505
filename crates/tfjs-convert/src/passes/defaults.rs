//! Attributes that files leave out because they have their default value, which TensorFlow.js does not know.

use std::{collections::HashMap, sync::LazyLock};

use tfjs_format::proto::{
    DataType, TensorShapeProto,
    attr_value::{ListValue, Value},
    tensor_shape_proto::Dim,
};
use tfjs_graph::Graph;

/// Default attributes by op; made from TensorFlow's definitions by `fixtures/make/op_defaults.py`.
static DEFAULTS: LazyLock<HashMap<&'static str, Vec<(&'static str, Value)>>> = LazyLock::new(|| {
    let mut defaults: HashMap<_, Vec<_>> = HashMap::new();
    for line in include_str!("op_defaults.txt").lines() {
        let mut words = line.splitn(4, ' ');
        if let (Some(op), Some(attr), Some(kind)) = (words.next(), words.next(), words.next())
            && let Some(value) = value(kind, words.next().unwrap_or_default())
        {
            defaults.entry(op).or_default().push((attr, value));
        }
    }
    defaults
});

/// Adds the attributes that are missing; says how many.
pub(crate) fn fill(graph: &mut Graph) -> usize {
    let mut count = 0;
    for id in graph.ids() {
        let node = graph.node_mut(id);
        for (attr, value) in DEFAULTS.get(node.op.as_str()).map_or(&[][..], Vec::as_slice) {
            if !node.attrs.0.contains_key(*attr) {
                node.attrs.set(attr, value.clone());
                count += 1;
            }
        }
    }
    count
}

fn value(kind: &str, text: &str) -> Option<Value> {
    if let Some(item) = kind.strip_prefix("list(") {
        let item = item.strip_suffix(')')?;
        let mut list = ListValue::default();
        for text in text.split(',').filter(|t| !t.is_empty()) {
            match value(item, text)? {
                Value::I(i) => list.i.push(i),
                Value::S(s) => list.s.push(s),
                Value::Type(t) => list.r#type.push(t),
                Value::Shape(s) => list.shape.push(*s),
                _ => return None,
            }
        }
        return Some(Value::List(Box::new(list)));
    }
    Some(match kind {
        "string" => Value::S(text.trim_matches('"').to_owned().into()),
        "int" => Value::I(text.parse().ok()?),
        "float" => Value::F(text.parse().ok()?),
        "bool" => Value::B(text == "true"),
        "type" => Value::Type(DataType::from_str_name(text)? as i32),
        "shape" if text == "unknown" => {
            Value::Shape(Box::new(TensorShapeProto { unknown_rank: true, ..TensorShapeProto::default() }))
        }
        "shape" => {
            let dim = |size: &str| Some(Dim { size: size.parse().ok()?, name: String::new() });
            let dim = text.split('x').filter(|t| !t.is_empty()).map(dim).collect::<Option<_>>()?;
            Value::Shape(Box::new(TensorShapeProto { dim, unknown_rank: false }))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tfjs_format::proto::attr_value::Value;

    use super::DEFAULTS;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = include_str!("op_defaults.txt").lines().count();
        assert_eq!(DEFAULTS.values().map(Vec::len).sum::<usize>(), lines);
    }

    #[test]
    fn lists_strings_and_numbers_come_out_of_the_table() {
        let find =
            |op: &str, attr: &str| DEFAULTS[op].iter().find(|(a, _)| *a == attr).map(|(_, v)| v.clone());
        let Some(Value::List(dilations)) = find("Conv2D", "dilations") else { panic!("no list") };
        assert_eq!(dilations.i, [1, 1, 1, 1]);
        assert_eq!(find("Conv2D", "data_format"), Some(Value::S("NHWC".into())));
        assert_eq!(find("LeakyRelu", "alpha"), Some(Value::F(0.2)));
    }
}
