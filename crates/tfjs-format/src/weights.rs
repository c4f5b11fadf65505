//! The weights manifest: which weights there are, how they are stored, and in which files.
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::{self, Place};
use crate::{DType, FormatError, Storage};

/// One entry of `weightsManifest`: weights whose bytes follow one another, and the files that hold them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightGroup {
    /// Files relative to the model, in order; together they are the bytes of the group.
    pub paths: Vec<String>,
    /// The weights, in the order of their bytes.
    pub weights: Vec<WeightSpec>,
    /// Fields that this crate does not know.
    pub extra: Map<String, Value>,
}

/// Name, shape and storage of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightSpec {
    /// Name; in graph models that of the `Const` node.
    pub name: String,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The declared type. Quantized weights keep the type they had before.
    pub dtype: Storage,
    /// How values were made smaller, if they were.
    pub quantization: Option<Quantization>,
    /// Fields that this crate does not know, such as `group` in files of TF.js itself.
    pub extra: Map<String, Value>,
}

/// How a weight was quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// The stored type and its numbers.
    pub codec: Codec,
    /// The type before quantization; absent in old files.
    pub original_dtype: Option<Storage>,
    /// Fields that this crate does not know.
    pub extra: Map<String, Value>,
}

/// A stored type and what is needed to decode it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Codec {
    /// `value = code · scale + min` with one byte per code.
    Uint8(Affine),
    /// `value = code · scale + min` with two bytes per code.
    Uint16(Affine),
    /// IEEE half precision.
    Float16,
}

/// The line that maps codes to values: `value = code · scale + min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Value of code 0.
    pub min: f64,
    /// Difference between neighbouring codes.
    pub scale: f64,
}

impl WeightGroup {
    /// A group of these weights in these files.
    pub fn new(paths: Vec<String>, weights: Vec<WeightSpec>) -> WeightGroup {
        WeightGroup { paths, weights, extra: Map::new() }
    }
}

impl WeightSpec {
    /// A weight that is stored as it is.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, dtype: DType) -> WeightSpec {
        WeightSpec {
            name: name.into(),
            shape: shape.into(),
            dtype: dtype.into(),
            quantization: None,
            extra: Map::new(),
        }
    }

    /// The same weight, quantized.
    #[must_use]
    pub fn quantized(mut self, codec: Codec) -> WeightSpec {
        self.quantization = Some(Quantization::new(codec, self.dtype));
        self
    }

    /// How its elements are stored.
    pub fn storage(&self) -> Storage {
        self.quantization.as_ref().map_or(self.dtype, |q| q.codec.storage())
    }

    /// The type its elements have at run time.
    pub fn runtime_dtype(&self) -> DType {
        self.dtype.dtype()
    }

    /// Number of elements.
    ///
    /// # Errors
    /// When the product of the dimensions overflows.
    pub fn elements(&self) -> Result<usize, FormatError> {
        element_count(&self.shape).ok_or_else(|| self.overflow())
    }

    /// Stored bytes; `None` for strings, whose size is in their data.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn byte_len(&self) -> Result<Option<usize>, FormatError> {
        let elements = self.elements()?;
        let Some(size) = self.storage().size() else { return Ok(None) };
        elements
            .checked_mul(size)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .map(Some)
            .ok_or_else(|| self.overflow())
    }

    fn overflow(&self) -> FormatError {
        let shape = self.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
        FormatError::SizeOverflow { name: self.name.clone(), shape }
    }
}

/// The product of dimensions, unless it overflows. A zero dimension makes it zero whatever the others are.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl Quantization {
    /// Quantization of values that had the type `original`.
    pub fn new(codec: Codec, original: Storage) -> Quantization {
        Quantization { codec, original_dtype: Some(original), extra: Map::new() }
    }
}

impl Codec {
    /// The stored type.
    pub fn storage(self) -> Storage {
        match self {
            Codec::Uint8(_) => Storage::Uint8,
            Codec::Uint16(_) => Storage::Uint16,
            Codec::Float16 => Storage::Float16,
        }
    }

    /// The line of an affine codec.
    pub fn affine(self) -> Option<Affine> {
        match self {
            Codec::Uint8(affine) | Codec::Uint16(affine) => Some(affine),
            Codec::Float16 => None,
        }
    }
}

impl WeightGroup {
    pub(crate) fn from_json(value: Value, at: &Place<'_>) -> Result<WeightGroup, FormatError> {
        let mut group = WeightGroup::default();
        let mut has_weights = false;
        for (key, value) in json::object(value, at)? {
            let at = at.key(&key);
            match key.as_str() {
                "paths" => {
                    for (i, path) in json::array(value, &at)?.into_iter().enumerate() {
                        group.paths.push(json::string(path, &at.index(i))?);
                    }
                }
                "weights" => {
                    has_weights = true;
                    for (i, spec) in json::array(value, &at)?.into_iter().enumerate() {
                        group.weights.push(WeightSpec::from_json(spec, &at.index(i))?);
                    }
                }
                _ => {
                    group.extra.insert(key, value);
                }
            }
        }
        if has_weights { Ok(group) } else { Err(at.missing("weights")) }
    }
}

impl WeightSpec {
    pub(crate) fn from_json(value: Value, at: &Place<'_>) -> Result<WeightSpec, FormatError> {
        let (mut name, mut shape, mut dtype, mut quantization) = (None, None, None, None);
        let mut extra = Map::new();
        for (key, value) in json::object(value, at)? {
            let at = at.key(&key);
            match key.as_str() {
                "name" => name = Some(json::string(value, &at)?),
                "shape" => {
                    let mut dims = Vec::new();
                    for (i, dim) in json::array(value, &at)?.iter().enumerate() {
                        dims.push(json::integer(dim, &at.index(i))?);
                    }
                    shape = Some(dims);
                }
                "dtype" => dtype = Some(json::string(value, &at)?),
                "quantization" if value.is_null() => {}
                "quantization" => quantization = Some(json::object(value, &at)?),
                _ => {
                    extra.insert(key, value);
                }
            }
        }
        let name = name.ok_or_else(|| at.missing("name"))?;
        let at = at.named("weight", &name);
        let shape = shape.ok_or_else(|| at.missing("shape"))?;
        let dtype = dtype.ok_or_else(|| at.missing("dtype"))?;
        let Some(dtype) = Storage::from_name(&dtype) else {
            return Err(FormatError::UnsupportedDType { weight: name, dtype });
        };
        let quantization = match quantization {
            Some(fields) => Some(Quantization::from_json(fields, &name, dtype, &at)?),
            None => None,
        };
        Ok(WeightSpec { name, shape, dtype, quantization, extra })
    }
}

impl Quantization {
    fn from_json(
        fields: Map<String, Value>,
        weight: &str,
        declared: Storage,
        at: &Place<'_>,
    ) -> Result<Quantization, FormatError> {
        let (mut dtype, mut min, mut scale, mut original_dtype) = (None, None, None, None);
        let mut extra = Map::new();
        let at = at.key("quantization");
        for (key, value) in fields {
            let at = at.key(&key);
            match key.as_str() {
                "dtype" => dtype = Some(json::string(value, &at)?),
                "min" => min = Some(json::number(&value, &at)?),
                "scale" => scale = Some(json::number(&value, &at)?),
                "original_dtype" => {
                    let text = json::string(value, &at)?;
                    original_dtype = Some(Storage::from_name(&text).ok_or_else(|| {
                        FormatError::UnsupportedDType { weight: weight.to_owned(), dtype: text }
                    })?);
                }
                _ => {
                    extra.insert(key, value);
                }
            }
        }
        let dtype = dtype.ok_or_else(|| at.missing("dtype"))?;
        let affine = |storage| {
            let missing =
                |field| FormatError::MissingQuantization { weight: weight.to_owned(), storage, field };
            let min = min.ok_or_else(|| missing("min"))?;
            let scale = scale.ok_or_else(|| missing("scale"))?;
            Ok::<_, FormatError>(Affine { min, scale })
        };
        let codec = match dtype.as_str() {
            "uint8" => Codec::Uint8(affine(Storage::Uint8)?),
            "uint16" => Codec::Uint16(affine(Storage::Uint16)?),
            "float16" => Codec::Float16,
            _ => return Err(FormatError::UnknownQuantization { weight: weight.to_owned(), dtype }),
        };
        let fits = match codec {
            Codec::Float16 => declared == Storage::Float32,
            Codec::Uint8(_) | Codec::Uint16(_) => matches!(declared, Storage::Float32 | Storage::Int32),
        };
        if !fits {
            return Err(FormatError::QuantizationMismatch {
                weight: weight.to_owned(),
                storage: codec.storage(),
                dtype: declared,
            });
        }
        Ok(Quantization { codec, original_dtype, extra })
    }
}

impl Serialize for WeightGroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("paths", &self.paths)?;
        map.serialize_entry("weights", &self.weights)?;
        extend(&mut map, &self.extra)?;
        map.end()
    }
}

impl Serialize for WeightSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("shape", &self.shape)?;
        map.serialize_entry("dtype", self.dtype.name())?;
        if let Some(quantization) = &self.quantization {
            map.serialize_entry("quantization", quantization)?;
        }
        extend(&mut map, &self.extra)?;
        map.end()
    }
}

impl Serialize for Quantization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("dtype", self.codec.storage().name())?;
        if let Some(affine) = self.codec.affine() {
            map.serialize_entry("min", &affine.min)?;
            map.serialize_entry("scale", &affine.scale)?;
        }
        if let Some(original) = self.original_dtype {
            map.serialize_entry("original_dtype", original.name())?;
        }
        extend(&mut map, &self.extra)?;
        map.end()
    }
}

pub(crate) fn extend<M: SerializeMap>(map: &mut M, extra: &Map<String, Value>) -> Result<(), M::Error> {
    extra.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))
}

impl<'de> Deserialize<'de> for WeightGroup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        WeightGroup::from_json(value, &Place::Root("weight group")).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for WeightSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        WeightSpec::from_json(value, &Place::Root("weight")).map_err(serde::de::Error::custom)
    }
}
