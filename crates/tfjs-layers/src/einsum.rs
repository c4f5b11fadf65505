//! Sums of products by equation, written as transpositions, reshapes and products of matrices: TF.js's own einsum knows no
//! ellipsis and multiplies element by element.

use tfjs_graph::{Port, builder::attr};

use crate::{Emit, LayersError, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// `ab,bc->ac` and the like, of any number of operands.
///
/// # Errors
/// When the equation does not fit the operands, or a label is repeated within one.
pub(crate) fn einsum(g: &mut Emit, equation: &str, operands: &[Port]) -> Result<Port> {
    let (labels, output) = parse(g, equation, operands)?;
    let mut rest = labels.into_iter().zip(operands.iter().copied());
    let wrong = || LayersError::Inputs(format!("einsum `{equation}` needs operands"));
    let (mut have, mut value) = rest.next().ok_or_else(wrong)?;
    let rest: Vec<(Vec<char>, Port)> = rest.collect();
    for (i, (labels, operand)) in rest.iter().enumerate() {
        // What later operands or the output need stays.
        let later = |l: char| output.contains(&l) || rest[i + 1..].iter().any(|(ls, _)| ls.contains(&l));
        let last = i + 1 == rest.len();
        let wanted: Vec<char> = if last {
            output.clone()
        } else {
            let all = have.iter().chain(labels.iter().filter(|l| !have.contains(l)));
            all.copied().filter(|&l| later(l)).collect()
        };
        value = product(g, (&have, value), (labels, *operand), &wanted)?;
        have = wanted;
    }
    if rest.is_empty() {
        value = sum_out(g, &mut have, value, |l| output.contains(&l))?;
        value = arrange(g, &have, value, &output)?;
    }
    Ok(value)
}

/// Labels of each operand and of the output, ellipses written out.
fn parse(g: &Emit, equation: &str, operands: &[Port]) -> Result<(Vec<Vec<char>>, Vec<char>)> {
    let wrong = |why: &str| LayersError::Inputs(format!("einsum `{equation}`: {why}"));
    let compact: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match compact.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (compact.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return Err(wrong(&format!("{} operands were given", operands.len())));
    }
    // Labels that no equation writes stand for the axes under an ellipsis.
    let hidden = |i: usize| char::from_u32(0x1F600 + i as u32).unwrap_or('?');
    let mut widest = 0;
    let mut labels = Vec::new();
    for (term, &operand) in terms.iter().zip(operands) {
        let rank = g.rank(operand)?;
        let written = term.chars().filter(|c| *c != '.').count();
        let covered = rank.checked_sub(written).ok_or_else(|| wrong("an operand has too few axes"))?;
        if !term.contains("...") && covered > 0 {
            return Err(wrong("an operand has more axes than labels"));
        }
        widest = widest.max(covered);
        labels.push((*term, covered));
    }
    let expand = |term: &str, covered: usize| -> Vec<char> {
        let axes = (widest - covered..widest).map(hidden);
        match term.split_once("...") {
            Some((before, after)) => before.chars().chain(axes).chain(after.chars()).collect(),
            None => term.chars().collect(),
        }
    };
    let labels: Vec<Vec<char>> = labels.into_iter().map(|(t, n)| expand(t, n)).collect();
    for l in &labels {
        if (1..l.len()).any(|i| l[..i].contains(&l[i])) {
            return Err(wrong("a label stands twice in one operand"));
        }
    }
    let output = match right {
        Some(right) => expand(right, widest),
        None => {
            // Labels that stand once, in alphabetical order, after the ellipsis.
            let all: Vec<char> = labels.iter().flatten().copied().collect();
            let mut once: Vec<char> = all
                .iter()
                .copied()
                .filter(|c| c.is_alphabetic() && all.iter().filter(|d| *d == c).count() == 1)
                .collect();
            once.sort_unstable();
            (0..widest).map(hidden).chain(once).collect()
        }
    };
    if output.iter().any(|l| !labels.iter().any(|ls| ls.contains(l))) {
        return Err(wrong("the output has a label that no operand has"));
    }
    Ok((labels, output))
}

/// Sums over the axes whose label is not kept.
fn sum_out(g: &mut Emit, labels: &mut Vec<char>, value: Port, keep: impl Fn(char) -> bool) -> Result<Port> {
    let axes: Vec<usize> = (0..labels.len()).filter(|&i| !keep(labels[i])).collect();
    if axes.is_empty() {
        return Ok(value);
    }
    labels.retain(|&l| keep(l));
    g.reduce("Sum", value, &axes, false)
}

fn arrange(g: &mut Emit, have: &[char], value: Port, want: &[char]) -> Result<Port> {
    let order: Option<Vec<usize>> = want.iter().map(|l| have.iter().position(|h| h == l)).collect();
    let order = order.ok_or_else(|| LayersError::Inputs("einsum: a label is missing".to_owned()))?;
    g.transpose(value, &order)
}

fn product(g: &mut Emit, a: (&[char], Port), b: (&[char], Port), want: &[char]) -> Result<Port> {
    let (mut la, mut lb) = (a.0.to_vec(), b.0.to_vec());
    let va = sum_out(g, &mut la, a.1, |l| b.0.contains(&l) || want.contains(&l))?;
    let vb = sum_out(g, &mut lb, b.1, |l| a.0.contains(&l) || want.contains(&l))?;
    let batch: Vec<char> = la.iter().copied().filter(|l| lb.contains(l) && want.contains(l)).collect();
    let inner: Vec<char> = la.iter().copied().filter(|l| lb.contains(l) && !want.contains(l)).collect();
    let rows: Vec<char> = la.iter().copied().filter(|l| !lb.contains(l)).collect();
    let columns: Vec<char> = lb.iter().copied().filter(|l| !la.contains(l)).collect();
    let dim = |g: &Emit, l: char| -> Result<Dim> {
        let of = |labels: &[char], v: Port| labels.iter().position(|&x| x == l).map(|i| g.dim(v, i));
        let (one, two) = (of(&la, va).transpose()?, of(&lb, vb).transpose()?);
        match (one, two) {
            // An axis of size 1 broadcasts, as those under an ellipsis do.
            (Some(Dim::Known(1)), Some(d)) | (Some(d @ Dim::Known(_)), _) | (None, Some(d)) => Ok(d),
            (Some(_), Some(d @ Dim::Known(n))) if n != 1 => Ok(d),
            (Some(d), _) => Ok(d),
            (None, None) => Err(LayersError::Inputs("einsum: a label is missing".to_owned())),
        }
    };
    let dims = |g: &Emit, ls: &[char]| ls.iter().map(|&l| dim(g, l)).collect::<Result<Vec<Dim>>>();
    let own = |g: &Emit, labels: &[char], v: Port, ls: &[char]| -> Result<Vec<Dim>> {
        let at = |l: &char| labels.iter().position(|x| x == l).unwrap_or_default();
        ls.iter().map(|l| g.dim(v, at(l))).collect()
    };
    let left = [batch.as_slice(), &rows, &inner].concat();
    let right = [batch.as_slice(), &inner, &columns].concat();
    let pa = arrange(g, &la, va, &left)?;
    let pb = arrange(g, &lb, vb, &right)?;
    let (row_dims, column_dims) = (dims(g, &rows)?, dims(g, &columns)?);
    // Each group of labels becomes one axis.
    let (rows_a, inner_a) = (merged(g, &row_dims)?, merged(g, &own(g, &la, va, &inner)?)?);
    let (inner_b, columns_b) = (merged(g, &own(g, &lb, vb, &inner)?)?, merged(g, &column_dims)?);
    let batch_a = own(g, &la, va, &batch)?;
    let batch_b = own(g, &lb, vb, &batch)?;
    let flat = |g: &mut Emit, v: Port, batch: &[Dim], groups: [(usize, Merged); 2]| -> Result<Port> {
        if groups.iter().all(|(count, _)| *count == 1) {
            return Ok(v);
        }
        let [(_, x), (_, y)] = groups;
        reshape(g, v, batch, &[x, y])
    };
    let pa = flat(g, pa, &batch_a, [(rows.len(), rows_a), (inner.len(), inner_a)])?;
    let pb = flat(g, pb, &batch_b, [(inner.len(), inner_b), (columns.len(), columns_b)])?;
    let no = || attr::bool(false);
    let y = if batch.is_empty() {
        g.op("MatMul", &[pa, pb], &[("transpose_a", no()), ("transpose_b", no())])?
    } else {
        g.op("BatchMatMulV2", &[pa, pb], &[("adj_x", no()), ("adj_y", no())])?
    };
    let have = [batch.as_slice(), &rows, &columns].concat();
    let y = if rows.len() == 1 && columns.len() == 1 {
        y
    } else {
        let all = dims(g, &have)?;
        g.reshape(y, &all)?
    };
    arrange(g, &have, y, want)
}

/// The product of several dimensions.
#[derive(Clone, Copy, Debug)]
enum Merged {
    Known(usize),
    One(Dim),
    /// Whatever is left.
    Rest,
}

fn merged(_g: &Emit, dims: &[Dim]) -> Result<Merged> {
    let mut size = 1usize;
    let mut unknown = Vec::new();
    for d in dims {
        match d {
            Dim::Known(n) => {
                size = size
                    .checked_mul(*n)
                    .ok_or_else(|| LayersError::Inputs("einsum: an operand is too large".to_owned()))?;
            }
            Dim::Of(..) => unknown.push(*d),
        }
    }
    Ok(match unknown.as_slice() {
        [] => Merged::Known(size),
        [one] if size == 1 => Merged::One(*one),
        _ => Merged::Rest,
    })
}

/// Reshapes to `batch` dimensions and merged ones; at most one of those may be `Rest`.
fn reshape(g: &mut Emit, value: Port, batch: &[Dim], merged: &[Merged]) -> Result<Port> {
    let rests = merged.iter().filter(|m| matches!(m, Merged::Rest)).count();
    if rests > 1 {
        return Err(LayersError::Inputs("einsum: too many dimensions are not known".to_owned()));
    }
    let all: Vec<Merged> = batch
        .iter()
        .map(|d| match d {
            Dim::Known(n) => Merged::Known(*n),
            d @ Dim::Of(..) => Merged::One(*d),
        })
        .chain(merged.iter().copied())
        .collect();
    // One dimension may stand as −1.
    let open = all.iter().filter(|m| !matches!(m, Merged::Known(_))).count();
    let mut shape = Vec::new();
    let mut sizes = Vec::new();
    let rest = rests == 1 || open == 1;
    for m in &all {
        match m {
            Merged::Known(n) => {
                sizes.push(Some(*n as i32));
                shape.push(Some(*n));
            }
            Merged::One(_) if open == 1 => {
                sizes.push(Some(-1));
                shape.push(None);
            }
            Merged::One(_) => {
                sizes.push(None);
                shape.push(None);
            }
            Merged::Rest => {
                sizes.push(Some(-1));
                shape.push(None);
            }
        }
    }
    let known: Option<Vec<i32>> = sizes.iter().copied().collect();
    let target = match (known, rest) {
        (Some(known), _) => g.ints(&known),
        _ => {
            let mut parts = Vec::new();
            for (m, size) in all.iter().zip(&sizes) {
                parts.push(match (m, size) {
                    (_, Some(size)) => g.int(*size),
                    (Merged::One(dim), None) => g.dim_value(*dim)?,
                    (Merged::Known(n), None) => g.int(*n as i32),
                    (Merged::Rest, None) => g.int(-1),
                });
            }
            g.op("Pack", &parts, &[("axis", attr::int(0))])?
        }
    };
    let out = g.op("Reshape", &[value, target], &[])?;
    g.set_shape(out, &shape);
    Ok(out)
}
