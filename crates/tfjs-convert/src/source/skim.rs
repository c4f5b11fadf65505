//! Reading graphs whose constants are larger than memory should hold: the large ones stay in the file.
//!
//! A message is copied without the contents of large tensors; in their place stands a number under which
//! [`Contents`] knows where they lie.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use tfjs_format::proto::{DataType, TensorProto};

use super::{
    file::FileAt,
    table::varint,
    tensor::{RawData, RawTensor, TensorMeta, base_type, full_shape, width},
};
use crate::ConvertError;

/// Contents from this many bytes on are left in the file.
const LARGE: u64 = 4096;
/// Read ahead, so that small fields do not cost a system call each.
const WINDOW: usize = 1 << 16;

/// A path of field numbers to `TensorProto.tensor_content`: which fields to look into, and what they hold.
#[derive(Debug)]
pub(crate) struct Route(&'static [(u32, &'static Route)]);

static TENSOR: Route = Route(&[]);
static ATTR_VALUE: Route = Route(&[(8, &TENSOR)]);
static ATTR_ENTRY: Route = Route(&[(2, &ATTR_VALUE)]);
static NODE: Route = Route(&[(5, &ATTR_ENTRY)]);
static FUNCTION: Route = Route(&[(3, &NODE)]);
static LIBRARY: Route = Route(&[(1, &FUNCTION)]);
pub(crate) static GRAPH: Route = Route(&[(1, &NODE), (2, &LIBRARY)]);
pub(crate) static META_GRAPH: Route = Route(&[(2, &GRAPH)]);
pub(crate) static SAVED_MODEL: Route = Route(&[(2, &META_GRAPH)]);

const TENSOR_CONTENT: u32 = 4;
/// `TensorProto.version_number`, which TensorFlow leaves 0, carries the number of the content.
const MARK: u32 = 3;

/// Where the contents lie that were left in a file.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    file: Option<Arc<FileAt>>,
    places: Arc<Vec<(u64, u64)>>,
}

/// A constant left in the file.
#[derive(Clone, Debug)]
pub struct Content {
    file: Arc<FileAt>,
    offset: u64,
    size: u64,
    /// Type and shape.
    pub meta: TensorMeta,
}

impl Contents {
    /// The content that belongs to a tensor of the skimmed message, if it was left in the file.
    ///
    /// # Errors
    /// When size and shape do not agree.
    pub fn find(&self, proto: &TensorProto, name: &str) -> Result<Option<Content>, ConvertError> {
        let place =
            usize::try_from(proto.version_number).ok().and_then(|n| self.places.get(n.checked_sub(1)?));
        let (Some(file), Some(&(offset, size)), true) = (&self.file, place, proto.tensor_content.is_empty())
        else {
            return Ok(None);
        };
        let shape = full_shape(proto.tensor_shape.as_ref(), name)?;
        let meta = TensorMeta { dtype: base_type(proto.dtype), shape };
        if meta.byte_len().and_then(|n| u64::try_from(n).ok()) != Some(size) {
            return Err(ConvertError::TensorValues {
                tensor: name.to_owned(),
                got: usize::try_from(size).unwrap_or(usize::MAX) / width(meta.dtype).unwrap_or(1),
                expected: meta.elements().unwrap_or(usize::MAX),
            });
        }
        Ok(Some(Content { file: file.clone(), offset, size, meta }))
    }
}

impl Content {
    /// Reads it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<RawTensor, ConvertError> {
        let data = match self.meta.dtype {
            DataType::DtFloat => RawData::Floats(self.file.read_floats(self.offset, self.size)?),
            _ => RawData::Bytes(Bytes::from(self.file.read(self.offset, self.size)?)),
        };
        Ok(RawTensor { dtype: self.meta.dtype, shape: self.meta.shape.clone(), data })
    }
}

/// The message in `path` without the contents of large tensors, and where those lie.
pub(crate) fn skim(path: &Path, route: &Route) -> Result<(Bytes, Contents), ConvertError> {
    let file = FileAt::open(path)?;
    let end = file.len();
    let mut reader = Reader { file: &file, window: Vec::new(), start: 0 };
    let mut places = Vec::new();
    let mut out = Vec::new();
    copy(&mut reader, 0..end, route, &mut out, &mut places)?;
    Ok((Bytes::from(out), Contents { file: Some(Arc::new(file)), places: Arc::new(places) }))
}

struct Reader<'a> {
    file: &'a FileAt,
    window: Vec<u8>,
    start: u64,
}

impl Reader<'_> {
    /// At most `want` bytes at `at`, before `end`; at least one unless `at` is the end.
    fn peek(&mut self, at: u64, want: usize, end: u64) -> Result<&[u8], ConvertError> {
        let want = usize::try_from(end.saturating_sub(at)).map_or(want, |left| want.min(left));
        let inside = at >= self.start && at + want as u64 <= self.start + self.window.len() as u64;
        if !inside {
            let left = usize::try_from(self.file.len().saturating_sub(at)).unwrap_or(usize::MAX);
            self.window.resize(want.max(WINDOW).min(left), 0);
            self.start = at;
            self.file.read_into(at, &mut self.window)?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.window[from..from + want])
    }
}

fn copy(
    reader: &mut Reader<'_>,
    range: std::ops::Range<u64>,
    route: &Route,
    out: &mut Vec<u8>,
    places: &mut Vec<(u64, u64)>,
) -> Result<(), ConvertError> {
    let end = range.end;
    let mut at = range.start;
    while at < end {
        let bad = |file: &FileAt| ConvertError::Message { path: file.path().to_path_buf(), offset: at };
        let head = reader.peek(at, 20, end)?;
        let mut rest = head;
        let header = varint(&mut rest).and_then(|key| {
            let after_key = rest;
            let size = match key & 7 {
                0 => {
                    varint(&mut rest)?;
                    (after_key.len() - rest.len()) as u64
                }
                1 => 8,
                5 => 4,
                2 => {
                    let len = varint(&mut rest)?;
                    return Some((key, len, head.len() - rest.len()));
                }
                _ => return None,
            };
            Some((key, size, head.len() - after_key.len()))
        });
        let Some((key, size, prefix)) = header else { return Err(bad(reader.file)) };
        let start = at + prefix as u64;
        let Some(next) = start.checked_add(size).filter(|n| *n <= end) else { return Err(bad(reader.file)) };
        let field = u32::try_from(key >> 3).map_err(|_| bad(reader.file))?;
        let into = if key & 7 == 2 { route.0.iter().find(|(f, _)| *f == field) } else { None };
        if let Some((_, inner)) = into.filter(|_| size >= LARGE) {
            let mut message = Vec::new();
            copy(reader, start..next, inner, &mut message, places)?;
            encode_key(field, WireType::LengthDelimited, out);
            encode_varint(message.len() as u64, out);
            out.extend_from_slice(&message);
        } else if std::ptr::eq(route, &TENSOR) && field == TENSOR_CONTENT && key & 7 == 2 && size >= LARGE {
            places.push((start, size));
            encode_key(MARK, WireType::Varint, out);
            encode_varint(places.len() as u64, out);
        } else if std::ptr::eq(route, &TENSOR) && field == MARK {
            // Whatever stood here is not one of our numbers.
        } else {
            let mut from = at;
            while from < next {
                let piece = reader.peek(from, WINDOW, next)?;
                out.extend_from_slice(piece);
                from += piece.len() as u64;
            }
        }
        at = next;
    }
    Ok(())
}
