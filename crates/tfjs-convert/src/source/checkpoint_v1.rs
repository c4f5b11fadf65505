//! Checkpoints of TensorFlow's first format: one table per shard, with the values inside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use prost::Message;
use tfjs_format::proto::DataType;

use super::{
    bundle::slice_of,
    ordered_code::{Slice, slice_key},
    slices::{Region, assemble},
    table::Table,
    tensor::{RawTensor, TensorMeta, base_type, full_shape},
    tensor_proto::raw_tensor,
};
use crate::{ConvertError, proto::SavedTensorSlices};

/// A checkpoint written with `Saver(write_version=V1)`.
#[derive(Debug)]
pub struct CheckpointV1 {
    tables: Vec<Table>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    meta: TensorMeta,
    /// Where each slice lies, and which shard has it.
    slices: Vec<(usize, Slice)>,
}

impl CheckpointV1 {
    /// Opens all shards, in any order.
    ///
    /// # Errors
    /// When a file cannot be read, is not a table, or lacks the description of its tensors.
    pub fn open(files: &[PathBuf]) -> Result<CheckpointV1, ConvertError> {
        let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
        let mut tables = Vec::new();
        for path in files {
            let table = Table::open(path)?;
            let none =
                || ConvertError::Table { path: path.clone(), what: "no description of the saved tensors" };
            let meta = SavedTensorSlices::decode(table.get(b"")?.ok_or_else(none)?)
                .map_err(|source| ConvertError::Decode {
                    path: path.clone(),
                    what: "checkpoint header",
                    source,
                })?
                .meta
                .ok_or_else(none)?;
            for tensor in meta.tensor {
                let shape = full_shape(tensor.shape.as_ref(), &tensor.name)?;
                let meta = TensorMeta { dtype: base_type(tensor.r#type), shape };
                let entry = tensors.entry(tensor.name).or_insert_with(|| Entry { meta, slices: Vec::new() });
                entry.slices.extend(tensor.slice.iter().map(|s| (tables.len(), slice_of(s))));
            }
            tables.push(table);
        }
        Ok(CheckpointV1 { tables, tensors })
    }

    /// Type and shape of a tensor, if it is there.
    pub fn meta(&self, name: &str) -> Option<&TensorMeta> {
        Some(&self.tensors.get(name)?.meta)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    /// As for a bundle.
    pub fn read(&self, name: &str) -> Result<RawTensor, ConvertError> {
        self.read_slice(name, &Slice::new())
    }

    /// Reads a part of a tensor; an empty slice means all of it.
    ///
    /// # Errors
    /// [`ConvertError::NoSuchTensor`], or when what is stored is broken.
    pub(crate) fn read_slice(&self, name: &str, slice: &Slice) -> Result<RawTensor, ConvertError> {
        let entry = self.tensors.get(name).ok_or_else(|| ConvertError::NoSuchTensor {
            tensor: name.to_owned(),
            path: self.path().to_path_buf(),
        })?;
        let shape = &entry.meta.shape;
        let bad = || ConvertError::BadSlice { tensor: name.to_owned(), path: self.path().to_path_buf() };
        let wanted = Region::of(slice, shape).ok_or_else(bad)?;
        let parts = entry.slices.iter().map(|(shard, slice)| {
            let region = Region::of(slice, shape).ok_or_else(bad)?;
            if region != wanted && !region.overlaps(&wanted) {
                return Ok(None);
            }
            let tensor = self.read_stored(*shard, name, slice, &region, entry.meta.dtype)?;
            Ok(Some((region, tensor)))
        });
        assemble(name, &entry.meta.dtype, &wanted, parts.filter_map(Result::transpose))
    }

    fn read_stored(
        &self,
        shard: usize,
        name: &str,
        slice: &Slice,
        region: &Region,
        dtype: DataType,
    ) -> Result<RawTensor, ConvertError> {
        let table = &self.tables[shard];
        let missing =
            || ConvertError::NoSuchTensor { tensor: name.to_owned(), path: table.path().to_path_buf() };
        let value = table.get(&slice_key(name, slice))?.ok_or_else(missing)?;
        let stored = SavedTensorSlices::decode(value).map_err(|source| ConvertError::Decode {
            path: table.path().to_path_buf(),
            what: "saved slice",
            source,
        })?;
        let mut proto = stored.data.and_then(|d| d.data).ok_or_else(missing)?;
        // The message holds bare values: the type is the tensor's, the shape the slice's.
        proto.dtype = dtype as i32;
        proto.tensor_shape = Some(tfjs_format::proto::TensorShapeProto {
            dim: region
                .extent
                .iter()
                .map(|&size| tfjs_format::proto::tensor_shape_proto::Dim {
                    size: size as i64,
                    name: String::new(),
                })
                .collect(),
            unknown_rank: false,
        });
        raw_tensor(&proto, name)
    }

    fn path(&self) -> &Path {
        self.tables.first().map_or(Path::new(""), Table::path)
    }
}
