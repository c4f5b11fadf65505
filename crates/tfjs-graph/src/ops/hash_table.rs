//! Hash tables, static and mutable.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use smallvec::smallvec;
use tfjs_kernels::{DType, Shape, Tensor, match_tensor};

use crate::{
    Cx, Effect, Fact, Op, OpError, Value,
    op::{Build, Inputs, OpDef, Values},
    value::{Key, Table},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("HashTable", 0..=0, |b| table(b, false)),
    OpDef::new("HashTableV2", 0..=0, |b| table(b, false)),
    OpDef::new("AnonymousHashTable", 0..=0, |b| table(b, false)),
    OpDef::new("MutableHashTable", 0..=0, |b| table(b, true)),
    OpDef::new("MutableHashTableV2", 0..=0, |b| table(b, true)),
    OpDef::new("MutableHashTableOfTensors", 0..=0, |b| table(b, true)),
    OpDef::new("MutableHashTableOfTensorsV2", 0..=0, |b| table(b, true)),
    OpDef::new("AnonymousMutableHashTable", 0..=0, |b| table(b, true)),
    OpDef::new("LookupTableFind", 3..=3, |b| table_op(b, find)),
    OpDef::new("LookupTableFindV2", 3..=3, |b| table_op(b, find)),
    OpDef::new("LookupTableImport", 3..=3, |b| table_op(b, import)),
    OpDef::new("LookupTableImportV2", 3..=3, |b| table_op(b, import)),
    OpDef::new("InitializeTable", 3..=3, |b| table_op(b, initialize)),
    OpDef::new("InitializeTableV2", 3..=3, |b| table_op(b, initialize)),
    OpDef::new("LookupTableInsert", 3..=3, |b| table_op(b, insert)),
    OpDef::new("LookupTableInsertV2", 3..=3, |b| table_op(b, insert)),
    OpDef::new("LookupTableRemoveV2", 2..=2, |b| table_op(b, remove)),
    OpDef::new("LookupTableSize", 1..=1, |b| table_op(b, size)),
    OpDef::new("LookupTableSizeV2", 1..=1, |b| table_op(b, size)),
    OpDef::new("LookupTableExport", 1..=1, |b| table_op(b, export)),
    OpDef::new("LookupTableExportV2", 1..=1, |b| table_op(b, export)),
];

/// Makes a table, or finds the one of its name.
#[derive(Debug)]
struct NewTable {
    name: String,
    key_dtype: DType,
    value_dtype: DType,
    value_shape: Vec<usize>,
    mutable: bool,
}

fn table(b: &Build<'_>, mutable: bool) -> Result<Box<dyn Op>, OpError> {
    let shared = b.attrs.str_or("shared_name", "")?;
    let name = if shared.is_empty() { b.node.name.as_str() } else { shared };
    let value_shape = b.attrs.shape("value_shape")?.unwrap_or_default();
    let value_shape = value_shape
        .into_iter()
        .collect::<Option<_>>()
        .ok_or_else(|| OpError::input("value_shape", "every dimension must be known"))?;
    Ok(Box::new(NewTable {
        name: name.to_owned(),
        key_dtype: b.attrs.dtype("key_dtype")?,
        value_dtype: b.attrs.dtype("value_dtype")?,
        value_shape,
        mutable,
    }))
}

impl Op for NewTable {
    fn eval(&self, cx: &mut Cx<'_>, _inputs: Inputs) -> Result<Values, OpError> {
        let table = cx.resources.table(&self.name, || Table {
            name: self.name.clone(),
            key_dtype: self.key_dtype,
            value_dtype: self.value_dtype,
            value_shape: self.value_shape.clone(),
            mutable: self.mutable,
            entries: Mutex::default(),
        });
        for (what, asked, got) in [
            ("key_dtype", self.key_dtype, table.key_dtype),
            ("value_dtype", self.value_dtype, table.value_dtype),
        ] {
            if asked != got {
                return Err(OpError::input(
                    what,
                    format!("is {asked}, but the table of this name has {got}"),
                ));
            }
        }
        Ok(smallvec![Value::Table(table)])
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}

type Run = fn(&Table, &mut Inputs) -> Result<Values, OpError>;

#[derive(Debug)]
struct TableOp {
    run: Run,
    outputs: Vec<Fact>,
}

fn table_op(b: &Build<'_>, run: Run) -> Result<Box<dyn Op>, OpError> {
    let typed = |a: &str| Fact { dtype: b.attrs.dtype(a).ok(), ..Fact::default() };
    let outputs = if b.node.op.starts_with("LookupTableFind") {
        vec![typed("Tout")]
    } else if b.node.op.starts_with("LookupTableSize") {
        vec![Fact::of(DType::Int32, &[])]
    } else {
        vec![typed("Tkeys"), typed("Tvalues")]
    };
    Ok(Box::new(TableOp { run, outputs }))
}

impl Op for TableOp {
    fn eval(&self, _cx: &mut Cx<'_>, mut inputs: Inputs) -> Result<Values, OpError> {
        let table: Arc<Table> = match inputs.take_value(0)? {
            Value::Table(t) => t,
            other => return Err(OpError::Kind { index: 0, got: other.kind(), expected: "a hash table" }),
        };
        (self.run)(&table, &mut inputs)
    }

    fn infer(&self, _inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        Ok(self.outputs.clone())
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}

fn keys(table: &Table, keys: &Tensor) -> Result<Vec<Key>, OpError> {
    if keys.dtype() != table.key_dtype {
        let problem = format!("are {}, table {} has {} keys", keys.dtype(), table.name, table.key_dtype);
        return Err(OpError::input("keys", problem));
    }
    Ok(match keys {
        Tensor::I32(t) => t.data().iter().map(|&k| Key::Int(k)).collect(),
        Tensor::F32(t) => t.data().iter().map(|k| Key::Float((k + 0.0).to_bits())).collect(),
        Tensor::Bool(t) => t.data().iter().map(|&k| Key::Bool(k)).collect(),
        Tensor::Str(t) => t.data().iter().map(|k| Key::Str(k.clone())).collect(),
        Tensor::C64(_) => return Err(OpError::input("keys", "complex numbers cannot be keys")),
    })
}

fn key_tensor(dtype: DType, keys: Vec<Key>) -> Result<Tensor, OpError> {
    Ok(match dtype {
        DType::Int32 => {
            Tensor::vector(keys.into_iter().map(|k| if let Key::Int(k) = k { k } else { 0 }).collect())
        }
        DType::Float32 => Tensor::vector(
            keys.into_iter().map(|k| if let Key::Float(k) = k { f32::from_bits(k) } else { 0.0 }).collect(),
        ),
        DType::Bool => Tensor::vector(keys.into_iter().map(|k| k == Key::Bool(true)).collect()),
        _ => Tensor::vector(
            keys.into_iter().map(|k| if let Key::Str(k) = k { k } else { Default::default() }).collect(),
        ),
    })
}

/// The values of keys, one tensor of the table's value shape each.
fn split_values(table: &Table, n: usize, values: &Tensor) -> Result<Vec<Tensor>, OpError> {
    if values.dtype() != table.value_dtype {
        let problem =
            format!("are {}, table {} has {} values", values.dtype(), table.name, table.value_dtype);
        return Err(OpError::input("values", problem));
    }
    let each: usize = table.value_shape.iter().product();
    if values.len() != n * each {
        let problem = format!("there are {n} keys, but values of shape {}", values.shape());
        return Err(OpError::input("values", problem));
    }
    (0..n)
        .map(|i| {
            Ok(match_tensor!(values, v => Tensor::new(&table.value_shape[..], v.data()[i * each..(i + 1) * each].to_vec())?))
        })
        .collect()
}

fn join_values(table: &Table, outer: &[usize], parts: &[Tensor]) -> Result<Tensor, OpError> {
    let shape: Shape = outer.iter().chain(&table.value_shape).copied().collect();
    let Some(first) = parts.first() else { return Ok(Tensor::zeros(table.value_dtype, shape)?) };
    Ok(match_tensor!(first, t => {
        let mut data = t.data().to_vec();
        for p in &parts[1..] {
            data.extend_from_slice(p.data()?);
        }
        Tensor::new(shape, data)?
    }))
}

fn find(table: &Table, x: &mut Inputs) -> Result<Values, OpError> {
    let (k, default) = (x.tensor(1)?, x.tensor(2)?);
    if default.dtype() != table.value_dtype {
        let problem =
            format!("is {}, table {} has {} values", default.dtype(), table.name, table.value_dtype);
        return Err(OpError::input("default_value", problem));
    }
    let each: usize = table.value_shape.iter().product();
    if default.len() != each {
        let problem = format!("has shape {}, values have shape {:?}", default.shape(), table.value_shape);
        return Err(OpError::input("default_value", problem));
    }
    let default = default.clone().reshape(&table.value_shape[..])?;
    let entries = table.entries.lock().unwrap_or_else(PoisonError::into_inner);
    let found: Vec<Tensor> =
        keys(table, k)?.iter().map(|k| entries.get(k).unwrap_or(&default).clone()).collect();
    Ok(smallvec![join_values(table, k.dims(), &found)?.into()])
}

/// Replaces the whole content; of a key given twice the last value stays.
fn import(table: &Table, x: &mut Inputs) -> Result<Values, OpError> {
    let k = keys(table, x.tensor(1)?)?;
    let v = split_values(table, k.len(), x.tensor(2)?)?;
    *table.entries.lock().unwrap_or_else(PoisonError::into_inner) = k.into_iter().zip(v).collect();
    Ok(Values::new())
}

/// Fills a static table once; a key may come twice only with the same value.
fn initialize(table: &Table, x: &mut Inputs) -> Result<Values, OpError> {
    let k = keys(table, x.tensor(1)?)?;
    let v = split_values(table, k.len(), x.tensor(2)?)?;
    let mut fresh = BTreeMap::new();
    for (k, v) in k.into_iter().zip(v) {
        match fresh.entry(k) {
            Entry::Vacant(e) => {
                e.insert(v);
            }
            Entry::Occupied(e) if *e.get() == v => {}
            Entry::Occupied(e) => {
                return Err(OpError::input(
                    "keys",
                    format!("{:?} comes twice with different values", e.key()),
                ));
            }
        }
    }
    *table.entries.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    Ok(Values::new())
}

fn must_be_mutable(table: &Table) -> Result<(), OpError> {
    if table.mutable {
        return Ok(());
    }
    Err(OpError::input("table_handle", format!("table {} is static and cannot be changed", table.name)))
}

fn insert(table: &Table, x: &mut Inputs) -> Result<Values, OpError> {
    must_be_mutable(table)?;
    let k = keys(table, x.tensor(1)?)?;
    let v = split_values(table, k.len(), x.tensor(2)?)?;
    table.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(k.into_iter().zip(v));
    Ok(Values::new())
}

fn remove(table: &Table, x: &mut Inputs) -> Result<Values, OpError> {
    must_be_mutable(table)?;
    let mut entries = table.entries.lock().unwrap_or_else(PoisonError::into_inner);
    for k in keys(table, x.tensor(1)?)? {
        entries.remove(&k);
    }
    Ok(Values::new())
}

fn size(table: &Table, _x: &mut Inputs) -> Result<Values, OpError> {
    let n = table.entries.lock().unwrap_or_else(PoisonError::into_inner).len();
    Ok(smallvec![Tensor::scalar(n as i32).into()])
}

fn export(table: &Table, _x: &mut Inputs) -> Result<Values, OpError> {
    let entries = table.entries.lock().unwrap_or_else(PoisonError::into_inner);
    let (k, v): (Vec<Key>, Vec<Tensor>) = entries.iter().map(|(k, v)| (k.clone(), v.clone())).unzip();
    let n = k.len();
    Ok(smallvec![key_tensor(table.key_dtype, k)?.into(), join_values(table, &[n], &v)?.into()])
}
