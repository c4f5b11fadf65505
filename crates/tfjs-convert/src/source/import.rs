use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use tfjs_format::proto::{DataType, GraphDef, TensorShapeProto};

use super::{
    bundle::Bundle,
    checkpoint_v1::CheckpointV1,
    ordered_code::Slice,
    tensor::{RawTensor, TensorMeta, base_type},
};
use crate::{ConvertError, proto};

/// A model as a reader hands it to the passes: a graph, what is fed and fetched, and where its values come from.
#[derive(Debug, Default)]
pub struct Imported {
    /// The graph as stored, with its function library. Variables are still variables.
    pub graph: GraphDef,
    /// Inputs and outputs.
    pub signature: Signature,
    /// Values of the variables, by the name of their node.
    pub variables: Variables,
    /// Nodes that set up the model (tables) before the first run.
    pub init_ops: Vec<String>,
    /// Files that belong to the model, by the name of the node that holds their path.
    pub assets: HashMap<String, PathBuf>,
    /// Version of TensorFlow that wrote the model; empty when unknown.
    pub tensorflow_version: String,
    /// Where large constants lie that were left in the file.
    pub contents: super::skim::Contents,
    /// Prefix under which nodes of a TF-Hub version 1 signature appear in the result.
    pub prefix: Option<String>,
}

/// What a model takes and gives, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    /// Inputs by key.
    pub inputs: BTreeMap<String, TensorRef>,
    /// Outputs by key.
    pub outputs: BTreeMap<String, TensorRef>,
    /// Whether there was a signature at all; without one, keys are node names.
    pub declared: bool,
}

/// A tensor of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorRef {
    /// `node` or `node:1`.
    pub name: String,
    /// TensorFlow's type; `DtInvalid` when unknown.
    pub dtype: DataType,
    /// Declared shape.
    pub shape: Option<TensorShapeProto>,
}

/// A checkpoint of either format.
#[derive(Debug)]
pub enum Checkpoint {
    /// TensorBundle.
    Bundle(Bundle),
    /// TensorFlow's first format.
    V1(CheckpointV1),
}

impl Checkpoint {
    /// Type and shape of a tensor, if it is there.
    ///
    /// # Errors
    /// When the entry is broken.
    pub fn meta(&self, name: &str) -> Result<Option<TensorMeta>, ConvertError> {
        match self {
            Checkpoint::Bundle(bundle) => bundle.meta(name),
            Checkpoint::V1(checkpoint) => Ok(checkpoint.meta(name).cloned()),
        }
    }

    pub(crate) fn read_slice(&self, name: &str, slice: &Slice) -> Result<RawTensor, ConvertError> {
        match self {
            Checkpoint::Bundle(bundle) if slice.is_empty() => bundle.read(name),
            Checkpoint::Bundle(bundle) => bundle.read_slice(name, slice),
            Checkpoint::V1(checkpoint) => checkpoint.read_slice(name, slice),
        }
    }
}

/// Where the value of a variable lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Name in the checkpoint.
    pub key: String,
    /// The part of it, for one piece of a partitioned variable; empty for all of it.
    pub(crate) slice: Slice,
}

/// Values of variables and tables, read from a checkpoint when asked for.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// The checkpoint; none in a model without variables.
    pub checkpoint: Option<Arc<Checkpoint>>,
    /// What the restore ops assign, by node name.
    pub stored: HashMap<String, Stored>,
    /// Keys and values that the restore ops import into tables, by node name.
    pub tables: HashMap<String, (Stored, Stored)>,
}

/// A value in a checkpoint, not yet read.
#[derive(Clone, Debug)]
pub struct Lazy {
    checkpoint: Arc<Checkpoint>,
    stored: Stored,
    /// Type and shape.
    pub meta: TensorMeta,
}

impl Lazy {
    /// Reads it.
    ///
    /// # Errors
    /// When what is stored is broken.
    pub fn read(&self) -> Result<RawTensor, ConvertError> {
        self.checkpoint.read_slice(&self.stored.key, &self.stored.slice)
    }
}

impl Variables {
    /// The value of the variable whose node has one of `names` (its own, its shared name, …).
    ///
    /// # Errors
    /// When its entry in the checkpoint is broken.
    pub fn find(&self, names: &[&str]) -> Result<Option<Lazy>, ConvertError> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(None) };
        if let Some(stored) = names.iter().find_map(|n| self.stored.get(*n)) {
            return lazy(checkpoint, stored);
        }
        // Without restore ops (TF-Hub modules) the key is the variable's name.
        for name in names {
            let stored = Stored { key: (*name).to_owned(), slice: Slice::new() };
            if let Some(found) = lazy(checkpoint, &stored)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keys and values of a table that is saved in the checkpoint.
    ///
    /// # Errors
    /// When an entry in the checkpoint is broken.
    pub fn find_table(&self, name: &str) -> Result<Option<(Lazy, Lazy)>, ConvertError> {
        let (Some(checkpoint), Some((keys, values))) = (&self.checkpoint, self.tables.get(name)) else {
            return Ok(None);
        };
        Ok(lazy(checkpoint, keys)?.zip(lazy(checkpoint, values)?))
    }
}

fn lazy(checkpoint: &Arc<Checkpoint>, stored: &Stored) -> Result<Option<Lazy>, ConvertError> {
    let Some(mut meta) = checkpoint.meta(&stored.key)? else { return Ok(None) };
    if !stored.slice.is_empty() {
        if stored.slice.len() != meta.shape.len() {
            return Err(ConvertError::BadSlice { tensor: stored.key.clone(), path: PathBuf::new() });
        }
        for (dim, (_, extent)) in meta.shape.iter_mut().zip(&stored.slice) {
            if let Some(extent) = extent.and_then(|e| usize::try_from(e).ok()) {
                *dim = extent;
            }
        }
    }
    Ok(Some(Lazy { checkpoint: checkpoint.clone(), stored: stored.clone(), meta }))
}

impl Signature {
    /// The signature of a message.
    ///
    /// # Errors
    /// When an entry is a sparse or composite tensor.
    pub(crate) fn from_proto(def: &proto::SignatureDef, key: &str) -> Result<Signature, ConvertError> {
        let side = |entries: &BTreeMap<String, proto::TensorInfo>, side: &'static str| {
            entries
                .iter()
                .map(|(k, info)| {
                    use proto::tensor_info::Encoding;
                    let Some(Encoding::Name(name)) = &info.encoding else {
                        return Err(ConvertError::SparseTensor {
                            signature: key.to_owned(),
                            side,
                            key: k.clone(),
                        });
                    };
                    let shape = info.tensor_shape.clone();
                    Ok((k.clone(), TensorRef { name: name.clone(), dtype: base_type(info.dtype), shape }))
                })
                .collect::<Result<BTreeMap<_, _>, _>>()
        };
        Ok(Signature {
            inputs: side(&def.inputs, "input")?,
            outputs: side(&def.outputs, "output")?,
            declared: true,
        })
    }
}
