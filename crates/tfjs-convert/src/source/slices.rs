//! Boxes inside tensors, and a tensor put together from boxes.

use bytes::Bytes;
use tfjs_format::proto::DataType;

use super::{
    ordered_code::Slice,
    tensor::{RawData, RawTensor, element_count, width},
};
use crate::ConvertError;

/// A box: first index and extent per dimension.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Region {
    pub(crate) start: Vec<usize>,
    pub(crate) extent: Vec<usize>,
}

impl Region {
    pub(crate) fn whole(shape: &[usize]) -> Region {
        Region { start: vec![0; shape.len()], extent: shape.to_vec() }
    }

    /// The box of `slice` in a tensor of `shape`; `None` when it does not lie inside.
    pub(crate) fn of(slice: &Slice, shape: &[usize]) -> Option<Region> {
        if slice.is_empty() {
            return Some(Region::whole(shape));
        }
        if slice.len() != shape.len() {
            return None;
        }
        let (mut start, mut extent) = (Vec::new(), Vec::new());
        for (&(first, length), &dim) in slice.iter().zip(shape) {
            let (s, e) = match length {
                None => (0, dim),
                Some(length) => (usize::try_from(first).ok()?, usize::try_from(length).ok()?),
            };
            if s.checked_add(e)? > dim {
                return None;
            }
            start.push(s);
            extent.push(e);
        }
        Some(Region { start, extent })
    }

    pub(crate) fn overlaps(&self, other: &Region) -> bool {
        self.intersection(other).is_some()
    }

    fn intersection(&self, other: &Region) -> Option<Region> {
        let mut out = Region { start: Vec::new(), extent: Vec::new() };
        for d in 0..self.start.len() {
            let start = self.start[d].max(other.start[d]);
            let end = (self.start[d] + self.extent[d]).min(other.start[d] + other.extent[d]);
            if end <= start {
                return None;
            }
            out.start.push(start);
            out.extent.push(end - start);
        }
        Some(out)
    }
}

/// The part `wanted` of a tensor, copied out of the boxes it is stored in, which must cover it.
pub(crate) fn assemble(
    name: &str,
    dtype: &DataType,
    wanted: &Region,
    parts: impl Iterator<Item = Result<(Region, RawTensor), ConvertError>>,
) -> Result<RawTensor, ConvertError> {
    let total =
        element_count(&wanted.extent).ok_or_else(|| ConvertError::TooLarge { tensor: name.to_owned() })?;
    let mut filled = 0;
    let mut bytes = Vec::new();
    let mut strings = Vec::new();
    let unit = width(*dtype).unwrap_or(1);
    for part in parts {
        let (region, tensor) = part?;
        if region == *wanted {
            return Ok(RawTensor { shape: wanted.extent.clone(), ..tensor });
        }
        let Some(common) = region.intersection(wanted) else { continue };
        filled += common.extent.iter().product::<usize>();
        let data = match tensor.data {
            RawData::Floats(floats) => {
                RawData::Bytes(floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into())
            }
            other => other,
        };
        match data {
            RawData::Floats(_) => {}
            RawData::Bytes(source) => {
                bytes.resize(total * unit, 0);
                for_rows(&common, |at, len| {
                    let (from, to) = (offset(&region, at) * unit, offset(wanted, at) * unit);
                    bytes[to..to + len * unit].copy_from_slice(&source[from..from + len * unit]);
                });
            }
            RawData::Strings(source) => {
                strings.resize(total, Bytes::new());
                for_rows(&common, |at, len| {
                    let (from, to) = (offset(&region, at), offset(wanted, at));
                    strings[to..to + len].clone_from_slice(&source[from..from + len]);
                });
            }
        }
    }
    if filled != total {
        return Err(ConvertError::MissingSlices { tensor: name.to_owned() });
    }
    let data =
        if *dtype == DataType::DtString { RawData::Strings(strings) } else { RawData::Bytes(bytes.into()) };
    Ok(RawTensor { dtype: *dtype, shape: wanted.extent.clone(), data })
}

/// Calls `row` with the first index and the length of every innermost row of `region`.
fn for_rows(region: &Region, mut row: impl FnMut(&[usize], usize)) {
    let rank = region.start.len();
    let len = region.extent.last().copied().unwrap_or(1);
    let mut at = region.start.clone();
    loop {
        row(&at, len);
        // Count up over all dimensions but the innermost.
        let mut d = rank.saturating_sub(1);
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            at[d] += 1;
            if at[d] < region.start[d] + region.extent[d] {
                break;
            }
            at[d] = region.start[d];
        }
    }
}

/// Position in `region`'s row-major data of the element at `at` of the whole tensor.
fn offset(region: &Region, at: &[usize]) -> usize {
    (0..at.len()).fold(0, |o, d| o * region.extent[d] + (at[d] - region.start[d]))
}
