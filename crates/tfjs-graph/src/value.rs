use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tfjs_kernels::{DType, Tensor, TfString};

/// What flows along an edge at run time.
#[derive(Clone, Debug)]
pub enum Value {
    /// An array of numbers or strings.
    Tensor(Tensor),
    /// A TensorList (a `variant` in TensorFlow). A value: changing a copy leaves the original alone.
    List(Arc<TensorList>),
    /// A handle to a TensorArray.
    Array(Arc<Mutex<TensorArray>>),
    /// A handle to a hash table.
    Table(Arc<Table>),
    /// An optional (`variant`).
    Optional(Option<Arc<Vec<Value>>>),
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Value {
        Value::Tensor(t)
    }
}

impl Value {
    /// What kind of value this is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::List(_) => "a TensorList",
            Value::Array(_) => "a TensorArray",
            Value::Table(_) => "a hash table",
            Value::Optional(_) => "an optional",
        }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

/// A list of tensors of one type. Elements that were never set read as zeros of the element shape.
#[derive(Clone, Debug)]
pub struct TensorList {
    /// Element type; `None` for lists of lists.
    pub dtype: Option<DType>,
    /// Shape that every element has; unknown dimensions are `None`.
    pub element_shape: Option<Vec<Option<usize>>>,
    /// The elements.
    pub items: Vec<Option<Value>>,
    /// Most elements that may be pushed; `None` for no limit.
    pub max_len: Option<usize>,
}

/// The state behind a TensorArray handle.
#[derive(Clone, Debug)]
pub struct TensorArray {
    /// Name, for messages.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape that every element has; set by the first write when it was unknown.
    pub element_shape: Option<Vec<Option<usize>>>,
    /// All elements must have one shape.
    pub identical_shapes: bool,
    /// May grow.
    pub dynamic_size: bool,
    /// Elements are dropped once read.
    pub clear_after_read: bool,
    /// The elements.
    pub items: Vec<ArrayItem>,
    /// No longer usable.
    pub closed: bool,
}

/// An element of a TensorArray.
#[derive(Clone, Debug, Default)]
pub struct ArrayItem {
    /// Its value, once written and not yet cleared.
    pub value: Option<Tensor>,
    /// Was read and cleared.
    pub cleared: bool,
    /// Was written.
    pub written: bool,
}

/// A key of a hash table. Floats compare by their bits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Integer keys of any width.
    Int(i32),
    /// Float keys, as bits.
    Float(u32),
    /// String keys.
    Str(TfString),
    /// Boolean keys.
    Bool(bool),
    /// Vector keys of mutable tables.
    Vector(Vec<Key>),
}

/// A hash table; shared by everyone who holds its handle.
#[derive(Debug)]
pub struct Table {
    /// Name, for messages.
    pub name: String,
    /// Type of the keys.
    pub key_dtype: DType,
    /// Type of the values.
    pub value_dtype: DType,
    /// Shape of one value.
    pub value_shape: Vec<usize>,
    /// Static tables are filled once.
    pub mutable: bool,
    /// The entries, in key order so that exports are deterministic.
    pub entries: Mutex<BTreeMap<Key, Tensor>>,
}
