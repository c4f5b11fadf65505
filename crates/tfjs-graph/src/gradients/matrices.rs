//! Products, transposition, bands and diagonals of matrices.
use tfjs_format::proto::attr_value::Value;

use super::{GradCx, Result, Row, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("BatchMatMul", |c| product(c, "adj_x", "adj_y")),
    row("BatchMatMulV2", |c| product(c, "adj_x", "adj_y")),
    row("BatchMatMulV3", |c| product(c, "adj_x", "adj_y")),
    row("BatchMatrixBandPart", band_part),
    row("BatchMatrixDiag", |c| same_op(c, "BatchMatrixDiagPart")),
    row("BatchMatrixDiagPart", diag_part),
    row("ConjugateTranspose", |c| transpose(c, "ConjugateTranspose")),
    row("Diag", |c| same_op(c, "DiagPart")),
    row("DiagPart", |c| same_op(c, "Diag")),
    row("Einsum", einsum),
    row("MatMul", |c| product(c, "transpose_a", "transpose_b")),
    row("MatrixBandPart", band_part),
    row("MatrixDiag", |c| same_op(c, "MatrixDiagPart")),
    row("MatrixDiagPart", diag_part),
    row("MatrixDiagPartV2", |c| diag_part_v3(c, "MatrixSetDiagV2")),
    row("MatrixDiagPartV3", |c| diag_part_v3(c, "MatrixSetDiagV3")),
    row("MatrixDiagV2", |c| diag_v3(c, "MatrixDiagPartV2", "MatrixSetDiagV2")),
    row("MatrixDiagV3", |c| diag_v3(c, "MatrixDiagPartV3", "MatrixSetDiagV3")),
    row("MatrixSetDiag", set_diag),
    row("BatchMatrixSetDiag", set_diag),
    row("MatrixSetDiagV2", |c| set_diag_v3(c, "MatrixDiagPartV2")),
    row("MatrixSetDiagV3", |c| set_diag_v3(c, "MatrixDiagPartV3")),
    row("Transpose", |c| transpose(c, "Transpose")),
];

/// For `y = a·b` with either operand transposed; leading dimensions broadcast.
fn product(c: &mut GradCx<'_>, a_attr: &str, b_attr: &str) -> Result<()> {
    let flag = |name: &str| c.attrs().bool_or(name, false).unwrap_or(false);
    let (ta, tb) = (flag(a_attr), flag(b_attr));
    let (a, b, dy) = (c.x(0), c.x(1), c.dy()?);
    let op = c.node().op.clone();
    // A matrix whose transpose is not the complex conjugate.
    let (a_in, b_in) = if op == "MatMul" { (c.conj(a)?, c.conj(b)?) } else { (a, b) };
    let write = |c: &mut GradCx<'_>, x: Port, y: Port, tx: bool, ty: bool| {
        c.op(&op, &[x, y], &[(a_attr, attr::bool(tx)), (b_attr, attr::bool(ty))])
    };
    if c.wants(0) {
        let g = if ta { write(c, b_in, dy, tb, true)? } else { write(c, dy, b_in, false, !tb)? };
        c.set_reduced(0, g)?;
    }
    if c.wants(1) {
        let g = if tb { write(c, dy, a_in, true, ta)? } else { write(c, a_in, dy, !ta, false)? };
        c.set_reduced(1, g)?;
    }
    Ok(())
}

fn transpose(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let dy = c.dy()?;
    let perm = match c.ints_of(1) {
        Some(perm) => {
            let mut back = vec![0; perm.len()];
            for (to, &from) in perm.iter().enumerate() {
                if let Some(slot) = usize::try_from(from).ok().and_then(|f| back.get_mut(f)) {
                    *slot = to as i32;
                }
            }
            c.ints(&back)
        }
        None => c.un("InvertPermutation", c.x(1))?,
    };
    let g = c.bin(op, dy, perm)?;
    c.set(0, g)
}

fn same_op(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let dy = c.dy()?;
    let g = c.un(op, dy)?;
    c.set(0, g)
}

fn band_part(c: &mut GradCx<'_>) -> Result<()> {
    let (lower, upper, dy) = (c.x(1), c.x(2), c.dy()?);
    let g = c.op("MatrixBandPart", &[dy, lower, upper], &[])?;
    c.set(0, g)
}

fn diag_part(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let zeros = c.un("ZerosLike", x)?;
    let g = c.bin("MatrixSetDiag", zeros, dy)?;
    c.set(0, g)
}

fn diag_part_v3(c: &mut GradCx<'_>, set: &str) -> Result<()> {
    let (x, k, dy) = (c.x(0), c.x(1), c.dy()?);
    let zeros = c.un("ZerosLike", x)?;
    let g = c.op_with(set, &[zeros, dy, k], &["align"])?;
    c.set(0, g)
}

fn diag_v3(c: &mut GradCx<'_>, part: &str, set: &str) -> Result<()> {
    let (x, k, dy) = (c.x(0), c.x(1), c.dy()?);
    let zero = c.number(0.0, dy);
    if c.wants(0) {
        let g = c.op_with(part, &[dy, k, zero], &["align"])?;
        c.set(0, g)?;
    }
    if c.wants(4) {
        // The padding value has the gradient of everything else.
        let diagonal = c.un("ZerosLike", x)?;
        let rest = c.op_with(set, &[dy, diagonal, k], &["align"])?;
        let g = sum_all(c, rest)?;
        c.set(4, g)?;
    }
    Ok(())
}

fn sum_all(c: &mut GradCx<'_>, a: Port) -> Result<Port> {
    let flat = c.ints(&[-1]);
    let flat = c.op("Reshape", &[a, flat], &[])?;
    let axes = c.ints(&[0]);
    c.op("Sum", &[flat, axes], &[("keep_dims", attr::bool(false))])
}

fn set_diag(c: &mut GradCx<'_>) -> Result<()> {
    let (diagonal, dy) = (c.x(1), c.dy()?);
    let zeros = c.un("ZerosLike", diagonal)?;
    let g = c.bin("MatrixSetDiag", dy, zeros)?;
    c.set(0, g)?;
    let g = c.un("MatrixDiagPart", dy)?;
    c.set(1, g)
}

fn set_diag_v3(c: &mut GradCx<'_>, part: &str) -> Result<()> {
    let (diagonal, k, dy) = (c.x(1), c.x(2), c.dy()?);
    if c.wants(0) {
        let (zeros, op) = (c.un("ZerosLike", diagonal)?, c.node().op.clone());
        let g = c.op_with(&op, &[dy, zeros, k], &["align"])?;
        c.set(0, g)?;
    }
    if c.wants(1) {
        let zero = c.number(0.0, dy);
        let g = c.op_with(part, &[dy, k, zero], &["align"])?;
        c.set(1, g)?;
    }
    Ok(())
}

/// A term whose ellipsis is labels that no equation uses. All ellipses must stand for the same dimensions.
fn labelled(c: &GradCx<'_>, term: &str, port: Port) -> Result<String> {
    let Some((before, after)) = term.split_once("...") else { return Ok(term.to_owned()) };
    let (whole, result) = (c.rank(port)?, c.rank(c.y(0))?);
    let output = c.attrs().str_or("equation", "")?;
    let named = output.rsplit("->").next().unwrap_or("").chars().filter(|ch| ch.is_alphabetic()).count();
    let (own, all) = (whole - before.len() - after.len(), result.saturating_sub(named));
    let free = ('A'..='Z').chain('a'..='z').filter(|&ch| !output.contains(ch));
    let labels: String = free.take(own).collect();
    if own != all || labels.len() != own {
        return c.refuse("ellipses of different lengths");
    }
    Ok(format!("{before}{labels}{after}"))
}

/// The equation with the operand and the result exchanged. Labels that only the operand has are summed over in the forward
/// direction, so that its gradient repeats along them; of labels that it repeats only the diagonal is read, so that its
/// gradient is zero elsewhere.
fn einsum(c: &mut GradCx<'_>) -> Result<()> {
    let equation = c.attrs().str_or("equation", "")?.to_owned();
    let equation: String = equation.chars().filter(|ch| !ch.is_whitespace()).collect();
    let Some((left, output)) = equation.split_once("->") else {
        return c.refuse("the equation has no arrow");
    };
    let terms: Vec<String> = left.split(',').map(str::to_owned).collect();
    let letters = |term: &str| -> Vec<char> { term.chars().filter(|ch| *ch != '.').collect() };
    let results = letters(output);
    if (1..results.len()).any(|i| results[..i].contains(&results[i])) {
        return c.refuse("the result repeats a label");
    }
    let dy = c.dy()?;
    for (i, term) in terms.iter().enumerate() {
        if !c.wants(i) {
            continue;
        }
        let others: Vec<usize> = (0..terms.len()).filter(|&j| j != i).collect();
        let found = |ch: char| output.contains(ch) || others.iter().any(|&j| terms[j].contains(ch));
        let mut target = String::new();
        for ch in term.chars().filter(|&ch| ch == '.' || found(ch)) {
            if ch == '.' || !target.contains(ch) {
                target.push(ch);
            }
        }
        // Where the operand has no ellipsis its dimensions are summed over, for which they need labels.
        let spell_out = !term.contains("...") && output.contains("...");
        let spelled = |c: &GradCx<'_>, term: &str, port: Port| match spell_out {
            true => labelled(c, term, port),
            false => Ok(term.to_owned()),
        };
        let mut inputs = vec![dy];
        let mut text = spelled(c, output, c.y(0))?;
        for &j in &others {
            text += &format!(",{}", spelled(c, &terms[j], c.x(j))?);
            let other = c.x(j);
            inputs.push(c.conj(other)?);
        }
        text += &format!("->{target}");
        let attrs: [(&str, Value); 1] = [("equation", attr::text(&text))];
        let g = c.op("Einsum", &inputs, &attrs)?;
        let g = spread_labels(c, g, c.x(i), term, &target)?;
        c.set(i, g)?;
    }
    Ok(())
}

/// From the labels of `target` to those of `term`, the shape of `x`.
fn spread_labels(c: &mut GradCx<'_>, mut g: Port, x: Port, term: &str, target: &str) -> Result<Port> {
    let letters: Vec<char> = term.chars().filter(|ch| *ch != '.').collect();
    let (open, mut lost, mut repeated) = (term.contains("..."), false, Vec::new());
    if letters.len() > target.chars().filter(|ch| *ch != '.').count() {
        let rank = if open { c.rank(x)? } else { letters.len() };
        let before = term.find("...").unwrap_or(letters.len());
        let axis = |at: usize| if at < before { at } else { (rank + at).saturating_sub(letters.len()) };
        for (at, ch) in letters.iter().enumerate() {
            let first = letters.iter().position(|other| other == ch).filter(|&first| first < at);
            if let Some(first) = first {
                repeated.push((rank, axis(first), axis(at)));
            }
            lost |= !target.contains(*ch);
            if first.is_some() || !target.contains(*ch) {
                let axis = c.int(axis(at) as i32);
                g = c.op("ExpandDims", &[g, axis], &[])?;
            }
        }
    }
    for (rank, first, second) in repeated {
        let (one, other) = (places(c, x, first, rank)?, places(c, x, second, rank)?);
        let diagonal = c.bin("Equal", one, other)?;
        let zero = c.number(0.0, g);
        g = c.op("SelectV2", &[diagonal, g, zero], &[])?;
    }
    match (lost, open) {
        (false, false) => Ok(g),
        (true, false) => c.broadcast_like(g, x),
        (_, true) => {
            if lost {
                let zeros = c.un("ZerosLike", x)?;
                g = c.add(g, zeros)?;
            }
            c.sum_to(g, x)
        }
    }
}

/// Where one is along an axis of `x`, of a shape that broadcasts to that of `x`.
fn places(c: &mut GradCx<'_>, x: Port, axis: usize, rank: usize) -> Result<Port> {
    let (start, end, step) = (c.int(0), c.dim(x, axis)?, c.int(1));
    let range = c.op("Range", &[start, end, step], &[])?;
    let mut shape = vec![1; rank.saturating_sub(axis).max(1)];
    shape[0] = -1;
    let shape = c.ints(&shape);
    c.op("Reshape", &[range, shape], &[])
}
