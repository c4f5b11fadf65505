use super::Known;
use crate::{Graph, Node, Port};

/// A size that a graph computes: a number times dimensions of values. Equal ones are always equal, others may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Size {
    number: i64,
    /// Sorted.
    dims: Vec<(Port, usize)>,
}

impl Size {
    pub(super) fn known(number: i64) -> Size {
        Size { number, dims: Vec::new() }
    }

    /// The product of some.
    pub(super) fn product<'a>(sizes: impl IntoIterator<Item = &'a Size>) -> Option<Size> {
        sizes.into_iter().try_fold(Size::known(1), |a, b| {
            let mut dims = [&a.dims[..], &b.dims].concat();
            dims.sort_unstable();
            Some(Size { number: a.number.checked_mul(b.number)?, dims })
        })
    }
}

/// Follows computations of shapes.
pub(super) struct Sizes<'a> {
    pub(super) graph: &'a Graph,
    pub(super) known: &'a Known,
}

/// Computations of shapes are short; functions' bodies may have cycles.
const DEPTH: usize = 12;

impl Sizes<'_> {
    /// The dimensions of a value whose rank is known.
    pub(super) fn dims(&self, of: Port) -> Option<Vec<Size>> {
        let dims = self.known.shape(of)?.iter().enumerate();
        Some(
            dims.map(|(i, d)| match d {
                Some(d) => Size::known(*d as i64),
                None => Size { number: 1, dims: vec![(of, i)] },
            })
            .collect(),
        )
    }

    /// The elements of a vector of sizes, or a single one.
    pub(super) fn of(&self, port: Port) -> Option<Vec<Size>> {
        self.follow(port, DEPTH)
    }

    /// Whether reshaping to these sizes gives `dims`: one of them may be -1.
    pub(super) fn reshapes_to(&self, shape: Port, dims: &[Size]) -> bool {
        self.of(shape).is_some_and(|to| {
            let open = to.iter().filter(|s| **s == Size::known(-1)).count();
            to.len() == dims.len()
                && open <= 1
                && to.iter().zip(dims).all(|(a, b)| a == b || *a == Size::known(-1))
                // With an empty dimension elsewhere -1 could be anything.
                && (open == 0 || dims.iter().all(|d| *d != Size::known(0)))
        })
    }

    fn ints(&self, port: Port) -> Option<Vec<i64>> {
        Some(self.known.fact(port)?.ints()?.iter().map(|&x| x.into()).collect())
    }

    fn follow(&self, port: Port, depth: usize) -> Option<Vec<Size>> {
        let depth = depth.checked_sub(1)?;
        if let Some(ints) = self.ints(port) {
            return Some(ints.into_iter().map(Size::known).collect());
        }
        let node: &Node = self.graph.get(port.node).filter(|_| port.index == 0)?;
        let sizes = |i: usize| self.follow(*node.inputs.get(i)?, depth);
        let list = |i: usize| self.ints(*node.inputs.get(i)?);
        match node.op.as_str() {
            "Shape" => self.dims(*node.inputs.first()?),
            "Identity" | "Cast" => sizes(0),
            "ExpandDims" => sizes(0).filter(|s| s.len() == 1),
            "Reshape" if self.known.rank(port)? <= 1 => sizes(0),
            "Prod" => {
                let whole = list(1)? == [0] || list(1)? == [-1];
                Some(vec![Size::product(&sizes(0)?)?]).filter(|_| whole)
            }
            "Mul" => match (&sizes(0)?[..], &sizes(1)?[..]) {
                ([a], [b]) => Some(vec![Size::product([a, b])?]),
                _ => None,
            },
            "Pack" => {
                let parts: Option<Vec<Vec<Size>>> = (0..node.inputs.len()).map(sizes).collect();
                parts.filter(|p| p.iter().all(|p| p.len() == 1)).map(|p| p.concat())
            }
            "ConcatV2" => {
                let (axis, parts) = node.inputs.split_last()?;
                let parts: Option<Vec<Vec<Size>>> = parts.iter().map(|&p| self.follow(p, depth)).collect();
                (self.ints(*axis)? == [0]).then_some(parts?.concat())
            }
            "GatherV2" => {
                let from = sizes(0)?;
                let plain = list(2)? == [0] && node.attrs.int_or("batch_dims", 0).ok()? == 0;
                let pick = |i: i64| from.get(usize::try_from(i).ok()?).cloned();
                list(1)?.into_iter().map(pick).collect::<Option<_>>().filter(|_| plain)
            }
            "StridedSlice" => {
                let from = sizes(0)?;
                let mask = |name| node.attrs.int_or(name, 0).ok();
                let (begin, end, step) = (list(1)?, list(2)?, list(3)?);
                let ([begin], [end], [1]) = (&begin[..], &end[..], &step[..]) else { return None };
                if mask("ellipsis_mask")? != 0 || mask("new_axis_mask")? != 0 {
                    return None;
                }
                let n = from.len() as i64;
                let place = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n) as usize;
                let first = if mask("begin_mask")? & 1 > 0 { 0 } else { place(*begin) };
                if mask("shrink_axis_mask")? & 1 > 0 {
                    return from.get(first..first + 1).map(<[_]>::to_vec);
                }
                let last = if mask("end_mask")? & 1 > 0 { from.len() } else { place(*end) };
                from.get(first..last.max(first)).map(<[_]>::to_vec)
            }
            _ => None,
        }
    }
}
