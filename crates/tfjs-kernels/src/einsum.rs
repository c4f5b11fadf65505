//! Einstein sums: parsed once, run as products of matrices.
use std::collections::BTreeSet;

use crate::{
    DType, Element, KernelError, Result, Shape, Tensor, TensorOf,
    binary::{BinaryOp, binary},
    linalg::transpose,
    match_tensor,
    matmul::{Orientation, matmul},
    reduce::{ReduceOp, reduce},
};

/// A dimension's name: a letter, or a place in the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// Labels of one operand or of the result: those before and after an ellipsis, if there is one.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    before: Vec<char>,
    after: Option<Vec<char>>,
}

impl Term {
    fn parse(text: &str) -> Option<Term> {
        let letters = |s: &str| -> Option<Vec<char>> {
            s.chars().all(|c| c.is_ascii_alphabetic()).then(|| s.chars().collect())
        };
        Some(match text.split_once("...") {
            Some((a, b)) => Term { before: letters(a)?, after: Some(letters(b)?) },
            None => Term { before: letters(text)?, after: None },
        })
    }

    fn letters(&self) -> impl Iterator<Item = char> {
        self.before.iter().chain(self.after.iter().flatten()).copied()
    }

    fn named(&self) -> usize {
        self.letters().count()
    }

    /// Labels of the dimensions of an operand whose ellipsis stands for `hidden` of them.
    fn labels(&self, hidden: usize) -> Vec<Label> {
        let dots = (0..if self.after.is_some() { hidden } else { 0 }).rev().map(Label::Ellipsis);
        let letters = |l: &[char]| l.iter().map(|&c| Label::Letter(c)).collect::<Vec<_>>();
        letters(&self.before)
            .into_iter()
            .chain(dots)
            .chain(self.after.iter().flat_map(|a| letters(a)))
            .collect()
    }
}

/// A parsed equation such as `bij,bjk->bik`. Labels are case-sensitive, may repeat within an operand (a diagonal), and
/// `...` stands for broadcast dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Equation {
    text: String,
    inputs: Vec<Term>,
    output: Term,
}

impl Equation {
    /// Parses an equation for a number of operands.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when it is malformed, has another number of operands, or its result has labels that
    /// are unknown or repeated.
    pub fn parse(equation: &str, operands: usize) -> Result<Equation> {
        let wrong = |expected| KernelError::Argument { what: "equation", got: equation.to_owned(), expected };
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let form =
            "operands of letters and at most one ellipsis each, separated by commas, then -> and the result";
        let (left, right) = text.split_once("->").ok_or_else(|| wrong(form))?;
        let inputs: Vec<Term> =
            left.split(',').map(Term::parse).collect::<Option<_>>().ok_or_else(|| wrong(form))?;
        let output = Term::parse(right).ok_or_else(|| wrong(form))?;
        if inputs.len() != operands {
            return Err(wrong("one list of labels per operand"));
        }
        let known: BTreeSet<char> = inputs.iter().flat_map(Term::letters).collect();
        let mut seen = BTreeSet::new();
        if !output.letters().all(|c| known.contains(&c) && seen.insert(c)) {
            return Err(wrong("labels of the result that occur in an operand, each once"));
        }
        Ok(Equation { text, inputs, output })
    }

    fn mismatch(&self, expected: &'static str) -> KernelError {
        KernelError::Argument { what: "equation", got: self.text.clone(), expected }
    }

    /// Labels of every operand of these ranks, and of the result.
    fn resolve(&self, ranks: impl Iterator<Item = usize>) -> Result<(Vec<Vec<Label>>, Vec<Label>)> {
        let mut widest = 0;
        let mut labels = Vec::with_capacity(self.inputs.len());
        for (term, rank) in self.inputs.iter().zip(ranks) {
            let hidden = rank.checked_sub(term.named()).filter(|&h| h == 0 || term.after.is_some());
            let hidden =
                hidden.ok_or_else(|| self.mismatch("as many labels as each operand has dimensions"))?;
            widest = widest.max(hidden);
            labels.push(term.labels(hidden));
        }
        if widest > 0 && self.output.after.is_none() {
            return Err(self.mismatch("an ellipsis in the result, as an operand has broadcast dimensions"));
        }
        Ok((labels, self.output.labels(widest)))
    }

    /// The result's partly known shape from those of the operands.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when the operands do not fit the equation.
    pub fn shape(&self, operands: &[&[Option<usize>]]) -> Result<Vec<Option<usize>>> {
        let (labels, output) = self.resolve(operands.iter().map(|d| d.len()))?;
        let size = |l: Label| -> Result<Option<usize>> {
            let mut found = None;
            let mut unknown = false;
            for (list, dims) in labels.iter().zip(operands) {
                for (_, d) in list.iter().zip(*dims).filter(|(x, _)| **x == l) {
                    match (*d, found) {
                        (None, _) => unknown = true,
                        (Some(1), Some(_)) if matches!(l, Label::Ellipsis(_)) => {}
                        (Some(d), None) => found = Some(d),
                        (Some(d), Some(1)) if matches!(l, Label::Ellipsis(_)) => found = Some(d),
                        (Some(d), Some(f)) if d != f => {
                            return Err(self.mismatch("one size per label"));
                        }
                        _ => {}
                    }
                }
            }
            // A broadcast dimension of size 1 may still grow.
            Ok(found.filter(|&d| !(unknown && d == 1 && matches!(l, Label::Ellipsis(_)))))
        };
        // Labels that are summed have to agree too.
        let all: BTreeSet<Label> = labels.iter().flatten().copied().collect();
        for l in all {
            size(l)?;
        }
        output.into_iter().map(size).collect()
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`KernelError`] when the operands do not fit the equation, or are not of one number type.
    pub fn run(&self, operands: Vec<Tensor>) -> Result<Tensor> {
        if operands.len() != self.inputs.len() {
            return Err(self.mismatch("one list of labels per operand"));
        }
        let dims: Vec<Vec<Option<usize>>> =
            operands.iter().map(|t| t.dims().iter().map(|&d| Some(d)).collect()).collect();
        self.shape(&dims.iter().map(|d| &d[..]).collect::<Vec<_>>())?;
        let (mut labels, output) = self.resolve(operands.iter().map(Tensor::rank))?;
        let dtype = operands.first().map_or(DType::Float32, Tensor::dtype);
        if matches!(dtype, DType::Bool | DType::String) {
            return Err(KernelError::DType {
                what: "the first operand",
                got: dtype,
                expected: "float32, int32 or complex64",
            });
        }
        if let Some(other) = operands.iter().find(|t| t.dtype() != dtype) {
            return Err(KernelError::DType {
                what: "an operand",
                got: other.dtype(),
                expected: dtype.name(),
            });
        }
        // From the left: what only one operand has is summed there, then two operands become one.
        let mut rest = operands.into_iter().zip(labels.drain(..)).collect::<Vec<_>>().into_iter();
        let Some(first) = rest.next() else { return Err(self.mismatch("at least one operand")) };
        let mut acc = Operand::new(first)?;
        let mut rest: std::collections::VecDeque<(Tensor, Vec<Label>)> = rest.by_ref().collect();
        loop {
            let later: BTreeSet<Label> = rest.iter().flat_map(|(_, l)| l).chain(&output).copied().collect();
            acc = acc.keep(&later)?;
            let Some(next) = rest.pop_front() else { break };
            let wanted: BTreeSet<Label> = rest.iter().flat_map(|(_, l)| l).chain(&output).copied().collect();
            let here: BTreeSet<Label> = acc.labels.iter().chain(&wanted).copied().collect();
            let next = Operand::new(next)?.keep(&here)?;
            acc = acc.times(next, &wanted)?;
        }
        acc.arranged(&output)
    }
}

/// A tensor whose dimensions have names, each once.
struct Operand {
    tensor: Tensor,
    labels: Vec<Label>,
}

impl Operand {
    /// Takes the diagonal of labels that repeat.
    fn new((tensor, labels): (Tensor, Vec<Label>)) -> Result<Operand> {
        let unique: BTreeSet<Label> = labels.iter().copied().collect();
        if unique.len() == labels.len() {
            return Ok(Operand { tensor, labels });
        }
        let mut kept: Vec<Label> = Vec::new();
        let (mut dims, mut steps) = (Shape::default(), Vec::new());
        let strides = tensor.shape().strides();
        for (i, &l) in labels.iter().enumerate() {
            match kept.iter().position(|&k| k == l) {
                Some(k) => steps[k] += strides[i],
                None => {
                    kept.push(l);
                    dims.push(tensor.dims()[i]);
                    steps.push(strides[i]);
                }
            }
        }
        fn gather<T: Element>(x: &TensorOf<T>, dims: Shape, steps: &[usize]) -> Result<Tensor> {
            let n = dims.checked_len()?;
            let mut out = Vec::with_capacity(n);
            for i in 0..n {
                let (mut at, mut rest) = (0, i);
                for (&d, &s) in dims.iter().zip(steps).rev() {
                    at += rest % d * s;
                    rest /= d;
                }
                out.push(x.data()[at].clone());
            }
            Tensor::new(dims, out)
        }
        let tensor = match_tensor!(&tensor, t => gather(t, dims, &steps))?;
        Ok(Operand { tensor, labels: kept })
    }

    fn size(&self, l: Label) -> Option<usize> {
        self.labels.iter().position(|&x| x == l).map(|i| self.tensor.dims()[i])
    }

    /// Sums over labels that nobody needs.
    fn keep(self, needed: &BTreeSet<Label>) -> Result<Operand> {
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.labels.iter().enumerate().partition(|(_, l)| needed.contains(l));
        if gone.is_empty() {
            return Ok(self);
        }
        let axes: Vec<i64> = gone.iter().map(|(i, _)| *i as i64).collect();
        let labels = kept.into_iter().map(|(_, &l)| l).collect();
        Ok(Operand { tensor: reduce(ReduceOp::Sum, self.tensor, &axes, false)?, labels })
    }

    /// The dimensions in the order of `labels`, with size 1 for those it lacks.
    fn arranged(self, labels: &[Label]) -> Result<Tensor> {
        let perm: Vec<usize> =
            labels.iter().filter_map(|l| self.labels.iter().position(|x| x == l)).collect();
        let shape: Shape = labels.iter().map(|&l| self.size(l).unwrap_or(1)).collect();
        transpose(self.tensor, &perm)?.reshape(shape)
    }

    /// Product over shared labels, summing those that are not wanted later.
    fn times(self, other: Operand, wanted: &BTreeSet<Label>) -> Result<Operand> {
        let (mut batch, mut summed, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &l in &self.labels {
            match (other.labels.contains(&l), wanted.contains(&l)) {
                (true, true) => batch.push(l),
                (true, false) => summed.push(l),
                _ => left.push(l),
            }
        }
        right.extend(other.labels.iter().filter(|l| !self.labels.contains(l)).copied());
        if summed.is_empty() {
            // Nothing to sum: a broadcast product.
            let labels = [&batch[..], &left, &right].concat();
            let (a, b) = (self.arranged(&labels)?, other.arranged(&labels)?);
            return Ok(Operand { tensor: binary(BinaryOp::Mul, a, b)?, labels });
        }
        let sizes =
            |o: &Operand, list: &[Label]| -> Shape { list.iter().map(|&l| o.size(l).unwrap_or(1)).collect() };
        let (lead_a, lead_b) = (sizes(&self, &batch), sizes(&other, &batch));
        let lead = crate::broadcast_shape(&lead_a, &lead_b)?;
        let (m, n) = (sizes(&self, &left), sizes(&other, &right));
        let k: usize = sizes(&self, &summed).iter().product();
        let shape: Shape = lead.iter().chain(&*m).chain(&*n).copied().collect();
        let flat =
            |lead: &Shape, x: usize, y: usize| -> Shape { lead.iter().copied().chain([x, y]).collect() };
        let (rows, cols) = (m.iter().product(), n.iter().product());

        // An operand that already ends in the summed labels is used as it lies.
        let (a, a_as) = if self.labels == [&batch[..], &summed, &left].concat() && !left.is_empty() {
            (self.tensor.reshape(flat(&lead_a, k, rows))?, Orientation::Transposed)
        } else {
            let order = [&batch[..], &left, &summed].concat();
            (self.arranged(&order)?.reshape(flat(&lead_a, rows, k))?, Orientation::Plain)
        };
        let (b, b_as) = if other.labels == [&batch[..], &right, &summed].concat() {
            (other.tensor.reshape(flat(&lead_b, cols, k))?, Orientation::Transposed)
        } else {
            let order = [&batch[..], &summed, &right].concat();
            (other.arranged(&order)?.reshape(flat(&lead_b, k, cols))?, Orientation::Plain)
        };
        let product = matmul(&a, &b, a_as, b_as)?;
        Ok(Operand { tensor: product.reshape(shape)?, labels: [batch, left, right].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::new(shape, (0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn run(equation: &str, operands: Vec<Tensor>) -> (Vec<usize>, Vec<f32>) {
        let e = Equation::parse(equation, operands.len()).unwrap();
        let y = e.run(operands).unwrap();
        (y.dims().to_vec(), y.data::<f32>().unwrap().to_vec())
    }

    /// Expected values are what `numpy.einsum` prints.
    #[test]
    fn sums_agree_with_numpy() {
        let m = || ramp(&[2, 3]);
        assert_eq!(run("ij,kj->ik", vec![m(), m()]), (vec![2, 2], vec![5.0, 14.0, 14.0, 50.0]));
        assert_eq!(run("ij,ij->j", vec![m(), m()]), (vec![3], vec![9.0, 17.0, 29.0]));
        assert_eq!(run("ij->", vec![m()]), (vec![], vec![15.0]));
        assert_eq!(run("ij->ji", vec![m()]).1, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(run("i,j->ij", vec![ramp(&[2]), ramp(&[3])]).1, [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
        assert_eq!(run("ii,i->i", vec![ramp(&[2, 2]), ramp(&[2])]).1, [0.0, 3.0]);
        assert_eq!(run("ij,jk,k->i", vec![m(), ramp(&[3, 2]), ramp(&[2])]), (vec![2], vec![13.0, 40.0]));
    }

    #[test]
    fn ellipsis_broadcasts() {
        let y = run("...ij,jk->...ik", vec![ramp(&[2, 2, 3]), ramp(&[3, 2])]);
        assert_eq!(y.0, [2, 2, 2]);
        assert_eq!(y.1[..4], [10.0, 13.0, 28.0, 40.0]);
        let y = run("...j,...j->...", vec![ramp(&[2, 1, 3]), ramp(&[4, 3])]);
        assert_eq!(y, (vec![2, 4], vec![5.0, 14.0, 23.0, 32.0, 14.0, 50.0, 86.0, 122.0]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (equation, n) in
            [("ij,jk", 2), ("ij->k", 1), ("ij->ii", 1), ("i->i", 2), ("i1->i", 1), ("....i->i", 1)]
        {
            assert!(Equation::parse(equation, n).is_err(), "{equation}");
        }
        for (equation, shapes) in
            [("ij,jk->ik", [[2, 3], [4, 2]]), ("ii,ij->j", [[2, 3], [2, 2]]), ("...,...->", [[2, 3], [2, 3]])]
        {
            let e = Equation::parse(equation, 2).unwrap();
            assert!(e.run(shapes.iter().map(|s| ramp(s)).collect()).is_err(), "{equation}");
        }
        let ijk = Equation::parse("ijk->i", 1).unwrap();
        assert!(ijk.run(vec![ramp(&[2, 3])]).is_err());
    }
}
