//! `model.weights.npz`: a zip archive of NumPy arrays, each holding the variables of one object.
//!
//! Keras writes them as pickled dictionaries of its variables. A pickle is a program; here it only lays out data.
//! Nothing is called: what a call would have made stays its name and arguments, in which a variable's array is found.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use tfjs_graph::Constant;
use tfjs_layers::StoredWeight;

use super::{
    KerasError,
    archive::Archive,
    file::in_file,
    h5::{DatasetInfo, ElementType, join, tensor_of},
};

/// All variables, under the paths that they have in the HDF5 form.
pub(super) fn read(archive: &Archive, path: &Arc<Path>) -> Result<Vec<StoredWeight>, KerasError> {
    let mut weights = Vec::new();
    let mut names: Vec<String> = archive.names().map(str::to_owned).collect();
    names.sort_unstable(); // as groups of HDF5
    for member in names {
        let Some(object) = member.strip_suffix(".npy") else { continue };
        let broken = |what: &str| KerasError::Member { name: member.clone(), what: what.to_owned() };
        let bytes = archive.bytes(&member)?;
        let (header, data) = npy(&bytes).ok_or_else(|| broken("is not a NumPy array"))?;
        if !header.contains("'|O'") {
            return Err(broken("holds numbers; Keras stores the variables of each object together"));
        }
        let object = if object == "__root__" { "" } else { object };
        for (key, array) in Machine::new(data).variables().map_err(|what| broken(&what))? {
            let name = join(&join(object, "vars"), &key);
            let (owned, path) = (name.clone(), path.clone());
            let (info, bytes) = array;
            let data_type =
                info.dtype.data_type().ok_or_else(|| broken("has elements of an unknown type"))?;
            let value = Constant::deferred(data_type, info.shape.clone(), move || {
                tensor_of(&bytes, &info, &owned, || owned.clone()).map_err(|e| in_file(&path, e).into())
            });
            weights.push(StoredWeight { name, value });
        }
    }
    Ok(weights)
}

/// Header and contents of a `.npy` file.
fn npy(bytes: &Bytes) -> Option<(String, Bytes)> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (start, len) = match rest {
        [1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?),
        _ => return None,
    };
    let end = len.checked_add(start)?;
    let header = String::from_utf8(bytes.get(start..end)?.to_vec()).ok()?;
    Some((header, bytes.slice(end..)))
}

type Array = (DatasetInfo, Bytes);

/// Builds data as a pickle says. Values refer to each other by their place, as the same one may be changed later.
struct Machine {
    code: Bytes,
    at: usize,
    values: Vec<Item>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: Vec<usize>,
}

#[derive(Clone)]
enum Item {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    Bytes(Bytes),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Name(String),
    Dtype {
        code: String,
        big_endian: bool,
    },
    Array {
        state: Option<usize>,
    },
    /// What a call of this name with these arguments would give, and the state that it would then get.
    Object {
        name: String,
        arguments: usize,
        state: Option<usize>,
    },
}

/// What is wrong, for a message about the member.
type Step<T> = Result<T, String>;

impl Machine {
    fn new(code: Bytes) -> Machine {
        Machine { code, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() }
    }

    /// The dictionary of arrays in the array of one object that Keras pickles.
    fn variables(mut self) -> Step<Vec<(String, Array)>> {
        let top = self.run()?;
        let wrong = || "is not a dictionary of variables".to_owned();
        if let Item::Object { name, .. } = &self.values[top] {
            return Err(format!("is a pickled Python object that calls `{name}`, which is never executed"));
        }
        let Item::Array { state: Some(state) } = self.values[top] else { return Err(wrong()) };
        let Item::List(state) = &self.values[state] else { return Err(wrong()) };
        let Some(Item::List(elements)) = state.get(4).map(|&at| &self.values[at]) else {
            return Err(wrong());
        };
        let [element] = elements[..] else { return Err(wrong()) };
        let Item::Dict(entries) = &self.values[element] else { return Err(wrong()) };
        let read = |&(key, value): &(usize, usize)| match &self.values[key] {
            Item::Text(key) => {
                let array = self.variable(value).and_then(|at| self.array(at));
                Ok((key.clone(), array.ok_or_else(|| format!("has no array for variable {key}"))?))
            }
            _ => Err(wrong()),
        };
        entries.iter().map(read).collect()
    }

    /// The array of a variable: itself, or what a Keras variable has as its value.
    fn variable(&self, at: usize) -> Option<usize> {
        let Item::Object { name, state: Some(state), .. } = &self.values[at] else { return Some(at) };
        if !(name.starts_with("keras.") && name.ends_with("Variable")) {
            return None;
        }
        let Item::Dict(state) = &self.values[*state] else { return None };
        let is_value = |key: usize| matches!(&self.values[key], Item::Text(key) if key == "_value");
        let (_, value) = state.iter().find(|(key, _)| is_value(*key))?;
        let mut seen = vec![false; self.values.len()];
        let mut open = vec![*value];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.values[at] {
                Item::Array { .. } => return Some(at),
                Item::List(items) => open.extend(items),
                Item::Dict(entries) => open.extend(entries.iter().map(|(_, value)| value)),
                Item::Object { arguments, state, .. } => open.extend([*arguments].iter().chain(state)),
                _ => {}
            }
        }
        None
    }

    fn array(&self, at: usize) -> Option<Array> {
        let Item::Array { state: Some(state) } = self.values[at] else { return None };
        let Item::List(state) = &self.values[state] else { return None };
        let [_, shape, dtype, fortran, data] = state[..] else { return None };
        let (Item::List(shape), Item::Dtype { code, big_endian }) =
            (&self.values[shape], &self.values[dtype])
        else {
            return None;
        };
        let (Item::Bool(fortran), Item::Bytes(data)) = (&self.values[fortran], &self.values[data]) else {
            return None;
        };
        let dim = |&at: &usize| match self.values[at] {
            Item::Int(dim) => usize::try_from(dim).ok(),
            _ => None,
        };
        let shape: Vec<usize> = shape.iter().map(dim).collect::<Option<_>>()?;
        let int = |bytes, signed| ElementType::Int { bytes, signed };
        let dtype = match code.as_str() {
            "f2" => ElementType::F16,
            "f4" => ElementType::F32,
            "f8" => ElementType::F64,
            "b1" => ElementType::Bool,
            "i1" => int(1, true),
            "i2" => int(2, true),
            "i4" => int(4, true),
            "i8" => int(8, true),
            "u1" => int(1, false),
            "u2" => int(2, false),
            "u4" => int(4, false),
            "u8" => int(8, false),
            _ => return None,
        };
        let mut data = data.clone();
        let width = dtype.width()?;
        if *big_endian {
            data = super::h5::swapped(&data, width);
        }
        if *fortran && shape.len() > 1 {
            data = row_major(&data, &shape, width)?;
        }
        Some((DatasetInfo::new(dtype, shape), data))
    }

    fn take(&mut self, len: usize) -> Step<Bytes> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.code.len());
        let end = end.ok_or_else(|| "ends within a pickle".to_owned())?;
        let bytes = self.code.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    /// An unsigned number of up to eight bytes.
    fn number(&mut self, bytes: usize) -> Step<usize> {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(&self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(all)).map_err(|_| "has a length that overflows".to_owned())
    }

    fn push(&mut self, item: Item) {
        self.stack.push(self.values.len());
        self.values.push(item);
    }

    fn pop(&mut self) -> Step<usize> {
        self.stack.pop().ok_or_else(|| "takes from an empty stack".to_owned())
    }

    fn top(&self) -> Step<usize> {
        self.stack.last().copied().ok_or_else(|| "looks at an empty stack".to_owned())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Step<Vec<usize>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(|| "has no mark".to_owned())?))
    }

    fn tuple(&mut self, len: usize) -> Step<()> {
        let start =
            self.stack.len().checked_sub(len).ok_or_else(|| "takes from an empty stack".to_owned())?;
        let items = self.stack.split_off(start);
        self.push(Item::List(items));
        Ok(())
    }

    fn remember(&mut self, at: usize) -> Step<()> {
        let top = self.top()?;
        if at > self.memo.len() {
            return Err("remembers out of order".to_owned());
        }
        if at == self.memo.len() {
            self.memo.push(top);
        }
        self.memo[at] = top;
        Ok(())
    }

    fn recall(&mut self, at: usize) -> Step<()> {
        let value = *self.memo.get(at).ok_or_else(|| "recalls what it did not remember".to_owned())?;
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, len: usize) -> Step<String> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "has a text that is not UTF-8".to_owned())
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.code[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(|| "ends within a pickle".to_owned())?;
        let line = self.text(len)?;
        self.at += 1;
        Ok(line)
    }

    /// Runs to the end and gives the place of the result.
    fn run(&mut self) -> Step<usize> {
        loop {
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?), // protocol
                0x95 => drop(self.take(8)?), // frame
                b'N' => self.push(Item::None),
                0x88 => self.push(Item::Bool(true)),
                0x89 => self.push(Item::Bool(false)),
                b'J' => {
                    let value = self.number(4)? as u32 as i32;
                    self.push(Item::Int(value.into()));
                }
                b'K' => self.integer(1)?,
                b'M' => self.integer(2)?,
                0x8a => {
                    let len = self.number(1)?;
                    if len > 7 {
                        return Err("has a number that overflows".to_owned());
                    }
                    let value = self.number(len)? as i64;
                    let bits = 64 - 8 * len.max(1) as u32;
                    self.push(Item::Int(value << bits >> bits));
                }
                0x8c => self.string(1)?,
                b'X' => self.string(4)?,
                0x8d => self.string(8)?,
                b'C' => self.blob(1)?,
                b'B' => self.blob(4)?,
                0x8e => self.blob(8)?,
                b'(' => self.marks.push(self.stack.len()),
                b')' => self.push(Item::List(Vec::new())),
                b']' | 0x8f => self.push(Item::List(Vec::new())),
                b'}' => self.push(Item::Dict(Vec::new())),
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.marked()?;
                    self.push(Item::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(&[item])?;
                }
                b'e' => {
                    let items = self.marked()?;
                    self.extend(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(&[key, value])?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.insert(&items)?;
                }
                0x94 => {
                    let next = self.memo.len();
                    self.remember(next)?;
                }
                b'q' => {
                    let at = self.number(1)?;
                    self.remember(at)?;
                }
                b'r' => {
                    let at = self.number(4)?;
                    self.remember(at)?;
                }
                b'h' => {
                    let at = self.number(1)?;
                    self.recall(at)?;
                }
                b'j' => {
                    let at = self.number(4)?;
                    self.recall(at)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Item::Name(format!("{module}.{name}")));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.values[module], &self.values[name]) {
                        (Item::Text(module), Item::Text(name)) => {
                            self.push(Item::Name(format!("{module}.{name}")));
                        }
                        _ => return Err("names something without a name".to_owned()),
                    }
                }
                b'R' | 0x81 => self.reduce()?,
                b'b' => self.build()?,
                other => return Err(format!("has the pickle instruction {other:#04x}, which is not read")),
            }
        }
    }

    fn integer(&mut self, bytes: usize) -> Step<()> {
        let value = self.number(bytes)? as i64;
        self.push(Item::Int(value));
        Ok(())
    }

    fn string(&mut self, bytes: usize) -> Step<()> {
        let len = self.number(bytes)?;
        let text = self.text(len)?;
        self.push(Item::Text(text));
        Ok(())
    }

    fn blob(&mut self, bytes: usize) -> Step<()> {
        let len = self.number(bytes)?;
        let bytes = self.take(len)?;
        self.push(Item::Bytes(bytes));
        Ok(())
    }

    fn extend(&mut self, items: &[usize]) -> Step<()> {
        let top = self.top()?;
        match &mut self.values[top] {
            Item::List(list) => list.extend_from_slice(items),
            _ => return Err("appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[usize]) -> Step<()> {
        let top = self.top()?;
        match &mut self.values[top] {
            Item::Dict(dict) => {
                dict.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)))
            }
            _ => return Err("inserts into what is no dictionary".to_owned()),
        }
        Ok(())
    }

    /// Notes a call. An array and its type, which NumPy makes by calls too, are understood.
    fn reduce(&mut self) -> Step<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let name = match &self.values[callee] {
            Item::Name(name) | Item::Object { name, .. } => name.clone(),
            _ => return Err("calls what has no name".to_owned()),
        };
        let first = match &self.values[arguments] {
            Item::List(items) => items.first().map(|&at| &self.values[at]),
            _ => return Err("calls without arguments".to_owned()),
        };
        let item = match (name.as_str(), first) {
            ("numpy._core.multiarray._reconstruct" | "numpy.core.multiarray._reconstruct", _) => {
                Item::Array { state: None }
            }
            ("numpy.dtype", Some(Item::Text(code))) => Item::Dtype { code: code.clone(), big_endian: false },
            ("numpy._core.multiarray.scalar" | "numpy.core.multiarray.scalar", _) => {
                let Item::List(items) = &self.values[arguments] else {
                    return Err("has a broken number".to_owned());
                };
                let [dtype, data] = items[..] else { return Err("has a broken number".to_owned()) };
                let next = self.values.len();
                let state = vec![next, next, dtype, next + 1, data];
                self.values.extend([Item::List(Vec::new()), Item::Bool(false), Item::List(state)]);
                Item::Array { state: Some(next + 2) }
            }
            // What is called may itself be made by a call, with arguments of its own.
            _ => {
                let with = vec![callee, arguments];
                self.values.push(Item::List(with));
                Item::Object { name, arguments: self.values.len() - 1, state: None }
            }
        };
        self.push(item);
        Ok(())
    }

    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        let top = self.top()?;
        let order = match &self.values[state] {
            Item::List(state) => state.get(1).map(|&at| self.values[at].clone()),
            _ => None,
        };
        match (&mut self.values[top], order) {
            (Item::Array { state: place } | Item::Object { state: place, .. }, _) => *place = Some(state),
            (Item::Dtype { big_endian, .. }, Some(Item::Text(order))) => *big_endian = order == ">",
            _ => return Err("sets the state of what has none".to_owned()),
        }
        Ok(())
    }
}

/// Elements stored with the first dimension innermost, put in the usual order.
fn row_major(data: &Bytes, shape: &[usize], width: usize) -> Option<Bytes> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    if count.checked_mul(width)? != data.len() {
        return None;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at = index.iter().zip(shape).rev().fold(0, |at, (&i, &dim)| at * dim + i);
        out.extend_from_slice(&data[at * width..(at + 1) * width]);
        for (i, &dim) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    Some(out.into())
}
