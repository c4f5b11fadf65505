use std::collections::BTreeMap;

use tfjs_format::{
    DType,
    proto::{AttrValue, DataType, TensorShapeProto, attr_value::Value},
};

/// Attributes of a node: TensorFlow's `AttrValue`s by name, with typed getters.
///
/// A getter without a default fails when the attribute is absent; one ending in `_or` falls back (files strip
/// attributes that have their default value). Either fails when the attribute has another type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(pub BTreeMap<String, AttrValue>);

/// An attribute is missing, has the wrong type, or a value that is not supported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrError {
    /// The attribute is required.
    #[error("attribute `{name}` is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// The attribute holds another kind of value.
    #[error("attribute `{name}` is not {expected}")]
    Kind {
        /// Its name.
        name: String,
        /// The kind that the op declares, in words.
        expected: &'static str,
    },
    /// The value is understood but not supported.
    #[error("attribute `{name}` is {got}, supported are: {expected}")]
    Unsupported {
        /// Its name.
        name: &'static str,
        /// The value in the file.
        got: String,
        /// What is supported, in words.
        expected: &'static str,
    },
}

type Result<T> = std::result::Result<T, AttrError>;

impl Attrs {
    /// The raw value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).and_then(|a| a.value.as_ref())
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), AttrValue { value: Some(value) });
    }

    /// Builder form of [`Attrs::set`].
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Attrs {
        self.set(name, value);
        self
    }

    /// Removes a value.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| AttrError::Missing { name: name.to_owned() })
    }

    fn kind<T>(&self, name: &str, expected: &'static str) -> Result<T> {
        Err(AttrError::Kind { name: name.to_owned(), expected })
    }

    fn opt_int(&self, name: &str) -> Result<Option<i64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::I(i)) => Ok(Some(*i)),
            // Old JSON writers put whole numbers into `f`.
            Some(Value::F(f)) if f.fract() == 0.0 => Ok(Some(*f as i64)),
            Some(_) => self.kind(name, "an integer"),
        }
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Result<i64> {
        self.required(name, self.opt_int(name)?)
    }

    /// An integer with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// A number of things: an integer that is not negative.
    pub fn count(&self, name: &'static str) -> Result<usize> {
        let i = self.int(name)?;
        usize::try_from(i).map_err(|_| AttrError::Unsupported {
            name,
            got: i.to_string(),
            expected: "numbers from 0 up",
        })
    }

    /// An integer attribute as a length, if it is one.
    pub(crate) fn count_of(&self, name: &str) -> Option<usize> {
        usize::try_from(self.opt_int(name).ok()??).ok()
    }

    /// The length of a list of types, if it is one.
    pub(crate) fn data_types_len(&self, name: &str) -> Option<usize> {
        match self.get(name)? {
            Value::List(l) => Some(l.r#type.len()),
            _ => None,
        }
    }

    /// A float with a default.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::F(f)) => Ok(*f),
            Some(Value::I(i)) => Ok(*i as f32),
            Some(_) => self.kind(name, "a float"),
        }
    }

    /// A boolean with a default.
    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::B(b)) => Ok(*b),
            Some(_) => self.kind(name, "a boolean"),
        }
    }

    /// A byte string, if present.
    pub fn opt_bytes(&self, name: &str) -> Result<Option<&[u8]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::S(s)) => Ok(Some(s)),
            Some(_) => self.kind(name, "a string"),
        }
    }

    /// A byte string.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.required(name, self.opt_bytes(name)?)
    }

    /// A text with a default.
    pub fn str_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.opt_bytes(name)? {
            None => Ok(default),
            Some(s) => std::str::from_utf8(s).or_else(|_| self.kind(name, "UTF-8 text")),
        }
    }

    /// A TensorFlow type, if present.
    pub fn opt_data_type(&self, name: &str) -> Result<Option<DataType>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Type(t)) => match DataType::try_from(*t) {
                Ok(t) => Ok(Some(t)),
                Err(_) => self.kind(name, "a known data type"),
            },
            Some(_) => self.kind(name, "a data type"),
        }
    }

    /// A TensorFlow type.
    pub fn data_type(&self, name: &str) -> Result<DataType> {
        self.required(name, self.opt_data_type(name)?)
    }

    /// The run-time type of a TensorFlow type attribute.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let t = self.data_type(name)?;
        DType::from_proto(t).map_or_else(|| self.kind(name, "a type of tensor that this runtime holds"), Ok)
    }

    /// The run-time type of a TensorFlow type attribute, with a default.
    pub fn dtype_or(&self, name: &str, default: DType) -> Result<DType> {
        if self.get(name).is_none() { Ok(default) } else { self.dtype(name) }
    }

    /// A shape: `None` when the attribute is absent or the rank is unknown; unknown dimensions are `None`.
    pub fn shape(&self, name: &str) -> Result<Option<Vec<Option<usize>>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Shape(s)) => Ok(partial_shape(s)),
            Some(_) => self.kind(name, "a shape"),
        }
    }

    /// The name of a function, if present.
    pub fn opt_func(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Func(f)) => Ok(Some(&f.name)),
            Some(_) => self.kind(name, "a function"),
        }
    }

    /// The name of a function.
    pub fn func(&self, name: &str) -> Result<&str> {
        self.required(name, self.opt_func(name)?)
    }

    /// Names of functions (of `Case`).
    pub fn funcs(&self, name: &str) -> Result<Vec<&str>> {
        match self.get(name) {
            None => Err(AttrError::Missing { name: name.to_owned() }),
            Some(Value::List(l)) => Ok(l.func.iter().map(|f| f.name.as_str()).collect()),
            Some(_) => self.kind(name, "a list of functions"),
        }
    }

    /// All functions that any attribute names.
    pub fn functions(&self) -> Vec<&str> {
        let values = self.0.values().filter_map(|a| a.value.as_ref());
        values
            .flat_map(|v| match v {
                Value::Func(f) => vec![f.name.as_str()],
                Value::List(l) => l.func.iter().map(|f| f.name.as_str()).collect(),
                _ => Vec::new(),
            })
            .collect()
    }

    /// A list of integers; empty when absent.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::List(l)) => Ok(l.i.clone()),
            Some(_) => self.kind(name, "a list of integers"),
        }
    }

    /// A list of floats; empty when absent.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::List(l)) => Ok(l.f.clone()),
            Some(_) => self.kind(name, "a list of floats"),
        }
    }

    /// A list of byte strings; empty when absent.
    pub fn strings(&self, name: &str) -> Result<Vec<&[u8]>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::List(l)) => Ok(l.s.iter().map(|s| &s[..]).collect()),
            Some(_) => self.kind(name, "a list of strings"),
        }
    }

    /// A list of TensorFlow types; empty when absent.
    pub fn data_types(&self, name: &str) -> Result<Vec<DataType>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::List(l)) => l
                .r#type
                .iter()
                .map(|&t| DataType::try_from(t).or_else(|_| self.kind(name, "a list of known data types")))
                .collect(),
            Some(_) => self.kind(name, "a list of data types"),
        }
    }

    /// A list of shapes; empty when absent.
    pub fn shapes(&self, name: &str) -> Result<Vec<Option<Vec<Option<usize>>>>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::List(l)) => Ok(l.shape.iter().map(partial_shape).collect()),
            Some(_) => self.kind(name, "a list of shapes"),
        }
    }
}

/// The dimensions of a shape message; `None` when its rank is unknown.
pub fn partial_shape(shape: &TensorShapeProto) -> Option<Vec<Option<usize>>> {
    (!shape.unknown_rank).then(|| shape.dim.iter().map(|d| usize::try_from(d.size).ok()).collect())
}
