//! The kernels against a plain loop in double precision, and its central differences.
use super::{Cell, Gate, Given, Gradients, RecurrentKernel, Sequence};
use crate::{
    Tensor, Threads,
    simd::Isa,
    testing::{assert_close, noise},
};

const CELLS: [Cell; 4] =
    [Cell::Simple, Cell::Lstm, Cell::Gru { reset_after: true }, Cell::Gru { reset_after: false }];

/// Numbers that go in, in double precision: inputs, kernel, bias, hidden and cell state.
type Numbers = [Vec<f64>; 5];

struct Case {
    seq: Sequence,
    batch: usize,
    time: usize,
    units: usize,
    mask: Option<Vec<bool>>,
}

impl Case {
    fn width(&self) -> usize {
        self.seq.cell.gates() * self.units
    }

    fn numbers(&self) -> Numbers {
        let wide = |n: usize, seed, by: f64| noise(n, seed).iter().map(|&x| f64::from(x) * by).collect();
        let states = self.batch * self.units;
        let scale = 1.0 / (self.units as f64).sqrt();
        [
            wide(self.batch * self.time * self.width(), 1, 1.5),
            wide(self.units * self.width(), 2, 1.5 * scale),
            wide(self.width(), 3, 1.0),
            wide(states, 4, 1.0),
            wide(states, 5, 1.0),
        ]
    }

    fn index(&self, sample: usize, time: usize) -> usize {
        if self.seq.time_major { time * self.batch + sample } else { sample * self.time + time }
    }

    /// Output, hidden state, cell state.
    fn plain(&self, [x, kernel, bias, h, c]: &Numbers) -> [Vec<f64>; 3] {
        let (u, w) = (self.units, self.width());
        let f = |gate: Gate, x: f64| match gate {
            Gate::Linear => x,
            Gate::Relu => x.max(0.0),
            Gate::Tanh => x.tanh(),
            Gate::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Gate::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Gate::HardSigmoidFifth => (x / 5.0 + 0.5).clamp(0.0, 1.0),
        };
        let (act, gate) = (|x| f(self.seq.activation, x), |x| f(self.seq.recurrent_activation, x));
        let (mut h, mut c) = (h.clone(), c.clone());
        let mut outputs = vec![0.0; self.batch * self.time * u];
        let mut last = vec![0.0; self.batch * u];
        for b in 0..self.batch {
            let mut seen = false;
            for step in 0..self.time {
                let time = if self.seq.go_backwards { self.time - 1 - step } else { step };
                let row = self.index(b, time);
                let x = &x[row * w..][..w];
                let h = &mut h[b * u..][..u];
                let c = &mut c[b * u..][..u];
                let dot = |h: &[f64], col: usize| -> f64 { (0..u).map(|k| h[k] * kernel[k * w + col]).sum() };
                let extra = |col: usize| match self.seq.cell {
                    Cell::Gru { reset_after: true } => bias[col],
                    _ => 0.0,
                };
                let reset: Vec<f64> = match self.seq.cell {
                    Cell::Gru { .. } => {
                        (0..u).map(|k| gate(x[u + k] + dot(h, u + k) + extra(u + k))).collect()
                    }
                    _ => Vec::new(),
                };
                let kept: Vec<f64> = reset.iter().zip(&*h).map(|(r, h)| r * h).collect();
                let mut new = (h.to_vec(), c.to_vec());
                for j in 0..u {
                    match self.seq.cell {
                        Cell::Simple => new.0[j] = act(x[j] + dot(h, j)),
                        Cell::Lstm => {
                            let z = |g: usize| x[g * u + j] + dot(h, g * u + j);
                            new.1[j] = gate(z(1)) * c[j] + gate(z(0)) * act(z(2));
                            new.0[j] = gate(z(3)) * act(new.1[j]);
                        }
                        Cell::Gru { reset_after } => {
                            let z = gate(x[j] + dot(h, j) + extra(j));
                            let candidate = if reset_after {
                                reset[j] * (dot(h, 2 * u + j) + bias[2 * u + j])
                            } else {
                                dot(&kept, 2 * u + j)
                            };
                            new.0[j] = z * h[j] + (1.0 - z) * act(x[2 * u + j] + candidate);
                        }
                    }
                }
                let live = self.mask.as_ref().is_none_or(|m| m[row]);
                if live {
                    h.copy_from_slice(&new.0);
                    c.copy_from_slice(&new.1);
                }
                seen |= live;
                let shown = if self.seq.zero_masked { live } else { seen };
                let y = &mut outputs[self.index(b, step) * u..][..u];
                y.copy_from_slice(&if shown { h.to_vec() } else { vec![0.0; u] });
                last[b * u..][..u].copy_from_slice(y);
            }
        }
        [if self.seq.return_sequences { outputs } else { last }, h, c]
    }

    fn tensor(&self, which: usize, values: &[f64]) -> Tensor {
        let (rows, cols) =
            if self.seq.time_major { (self.time, self.batch) } else { (self.batch, self.time) };
        let shape = match which {
            0 => vec![rows, cols, self.width()],
            1 => vec![self.units, self.width()],
            2 => vec![self.width()],
            _ => vec![self.batch, self.units],
        };
        Tensor::new(shape, values.iter().map(|&x| x as f32).collect()).unwrap()
    }

    fn mask(&self) -> Option<Tensor> {
        let shape = if self.seq.time_major { [self.time, self.batch] } else { [self.batch, self.time] };
        self.mask.clone().map(|m| Tensor::new(shape, m).unwrap())
    }

    fn check(&self) {
        let numbers = self.numbers();
        let tensors: Vec<Tensor> = (0..5).map(|i| self.tensor(i, &numbers[i])).collect();
        // What really goes in.
        let numbers: Numbers = std::array::from_fn(|i| {
            tensors[i].data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
        });
        let mask = self.mask();
        let after = self.seq.cell == Cell::Gru { reset_after: true };
        let lstm = self.seq.cell == Cell::Lstm;
        let given = Given {
            bias: after.then_some(&tensors[2]),
            h: Some(&tensors[3]),
            c: Some(&tensors[4]),
            mask: mask.as_ref(),
        };
        let want = self.plain(&numbers);
        let what = format!("{:?} {} {} {}", self.seq, self.batch, self.time, self.units);
        // The sum of all outputs, each with a factor of its own.
        let factors: [Vec<f32>; 3] = std::array::from_fn(|i| noise(want[i].len(), 10 + i as u64));
        let loss = |numbers: &Numbers| -> f64 {
            let got = self.plain(numbers);
            let count = if lstm { 3 } else { 2 };
            (0..count)
                .map(|i| got[i].iter().zip(&factors[i]).map(|(a, &b)| a * f64::from(b)).sum::<f64>())
                .sum()
        };
        for isa in Isa::available() {
            let run = || {
                let kernel = RecurrentKernel::new(self.seq.cell, &tensors[1]).unwrap();
                let out = self.seq.forward(tensors[0].clone(), &kernel, given, true).unwrap();
                let dy = Tensor::new(out.y.shape(), factors[0].clone()).unwrap();
                let (dh, dc) = (
                    Tensor::new(out.h.shape(), factors[1].clone()).unwrap(),
                    Tensor::new(out.h.shape(), factors[2].clone()).unwrap(),
                );
                let gradients = Gradients { y: Some(&dy), h: Some(&dh), c: lstm.then_some(&dc) };
                let saved = out.saved.clone().unwrap();
                let back = self.seq.backward(gradients, &tensors[1], saved, mask.as_ref(), true).unwrap();
                (out, back)
            };
            let (out, back) = isa.scope(|| Threads::new(1).unwrap().run(run)).unwrap();
            let two = isa.scope(|| Threads::new(2).unwrap().run(run)).unwrap();
            assert_eq!((&out.y, &back.x, &back.kernel), (&two.0.y, &two.1.x, &two.1.kernel), "{what}");
            assert_close(out.y.data().unwrap(), &want[0], 2e-6, &what);
            assert_close(out.h.data().unwrap(), &want[1], 2e-6, &what);
            if lstm {
                assert_close(out.c.data().unwrap(), &want[2], 2e-6, &what);
            }
            let kernel = RecurrentKernel::new(self.seq.cell, &tensors[1]).unwrap();
            let fresh = self.seq.forward(tensors[0].clone(), &kernel, given, false).unwrap();
            assert_close(fresh.y.data().unwrap(), &want[0], 2e-6, &what);
            let grads = [&back.x, &back.kernel, &back.bias, &back.h, &back.c];
            for (i, gradient) in grads.into_iter().enumerate() {
                let gradient = gradient.data::<f32>().unwrap();
                let n = numbers[i].len();
                if gradient.is_empty() {
                    continue;
                }
                assert_eq!(gradient.len(), n, "{what}");
                // Of many numbers a few.
                let every = (n / if n < 500 { 7 } else { 2 }).max(1);
                for at in (0..n).step_by(every) {
                    let step = 1e-5;
                    let moved = |by: f64| {
                        let mut numbers = numbers.clone();
                        numbers[i][at] += by;
                        loss(&numbers)
                    };
                    let slope = (moved(step) - moved(-step)) / (2.0 * step);
                    let error = (f64::from(gradient[at]) - slope).abs();
                    assert!(
                        error <= 2e-5 * slope.abs().max(1.0),
                        "{isa} {what}: {i} {at}: {} {slope}",
                        gradient[at]
                    );
                }
            }
        }
    }
}

impl Case {
    /// Forwards only.
    fn check_forward(&self) {
        let numbers = self.numbers();
        let tensors: Vec<Tensor> = (0..5).map(|i| self.tensor(i, &numbers[i])).collect();
        let numbers: Numbers = std::array::from_fn(|i| {
            tensors[i].data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
        });
        let mask = self.mask();
        let given = Given {
            bias: (self.seq.cell == Cell::Gru { reset_after: true }).then_some(&tensors[2]),
            h: Some(&tensors[3]),
            c: Some(&tensors[4]),
            mask: mask.as_ref(),
        };
        let want = self.plain(&numbers);
        let what = format!("{:?} {} {} {}", self.seq, self.batch, self.time, self.units);
        for isa in Isa::available() {
            let run = || {
                let kernel = RecurrentKernel::new(self.seq.cell, &tensors[1]).unwrap();
                let out = self.seq.forward(tensors[0].clone(), &kernel, given, false).unwrap();
                [out.y, out.h, out.c]
            };
            let got = isa.scope(|| Threads::new(1).unwrap().run(run)).unwrap();
            for threads in [2, 3] {
                assert_eq!(got, isa.scope(|| Threads::new(threads).unwrap().run(run)).unwrap(), "{what}");
            }
            let outputs = if self.seq.cell == Cell::Lstm { 3 } else { 2 };
            for (got, want) in got.iter().zip(&want).take(outputs) {
                assert_close(got.data().unwrap(), want, 3e-6, &format!("{isa} {what}"));
            }
        }
    }
}

fn sequence(cell: Cell) -> Sequence {
    Sequence {
        cell,
        activation: Gate::Tanh,
        recurrent_activation: Gate::Sigmoid,
        time_major: false,
        go_backwards: false,
        return_sequences: true,
        zero_masked: false,
    }
}

#[test]
fn every_cell_agrees_with_a_plain_loop_in_every_layout() {
    for cell in CELLS {
        for bits in 0..16 {
            let seq = Sequence {
                time_major: bits & 1 > 0,
                go_backwards: bits & 2 > 0,
                return_sequences: bits & 4 > 0,
                zero_masked: bits & 8 > 0,
                ..sequence(cell)
            };
            let mask = (0..12).map(|i| ![0, 1, 2, 3, 5, 8, 11].contains(&i)).collect();
            Case { seq, batch: 3, time: 4, units: 5, mask: Some(mask) }.check();
            if !seq.zero_masked {
                Case { seq, batch: 2, time: 3, units: 4, mask: None }.check();
            }
        }
    }
}

#[test]
fn long_and_wide_sequences_are_shared_by_threads() {
    for cell in CELLS {
        Case { seq: sequence(cell), batch: 17, time: 12, units: 41, mask: None }.check();
        let seq = Sequence { time_major: true, ..sequence(cell) };
        Case { seq, batch: 5, time: 16, units: 64, mask: None }.check();
    }
}

#[test]
fn one_sample_agrees_with_a_plain_loop_in_every_layout() {
    for cell in CELLS {
        for bits in 0..16 {
            let seq = Sequence {
                time_major: bits & 1 > 0,
                go_backwards: bits & 2 > 0,
                return_sequences: bits & 4 > 0,
                zero_masked: bits & 8 > 0,
                ..sequence(cell)
            };
            let mask = [false, true, true, false, true].to_vec();
            Case { seq, batch: 1, time: 5, units: 19, mask: Some(mask) }.check_forward();
            if !seq.zero_masked {
                Case { seq, batch: 1, time: 4, units: 16, mask: None }.check_forward();
            }
        }
        for (time, units) in [(0, 3), (1, 1), (9, 130), (30, 257)] {
            Case { seq: sequence(cell), batch: 1, time, units, mask: None }.check_forward();
        }
        let seq =
            Sequence { activation: Gate::Relu, recurrent_activation: Gate::HardSigmoid, ..sequence(cell) };
        Case { seq, batch: 1, time: 3, units: 33, mask: None }.check_forward();
    }
}

#[test]
fn other_functions_are_computed_too() {
    let gates = [Gate::Linear, Gate::Relu, Gate::HardSigmoid, Gate::HardSigmoidFifth, Gate::Sigmoid];
    for cell in CELLS {
        for gate in gates {
            let bounded = if gate == Gate::Relu || gate == Gate::Linear { Gate::Sigmoid } else { gate };
            let seq = Sequence { activation: gate, recurrent_activation: bounded, ..sequence(cell) };
            Case { seq, batch: 2, time: 3, units: 18, mask: None }.check();
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let zeros = |shape: &[usize]| Tensor::new(shape, vec![0f32; shape.iter().product()]).unwrap();
    assert!(RecurrentKernel::new(Cell::Lstm, &zeros(&[2, 9])).is_err());
    assert!(RecurrentKernel::new(Cell::Lstm, &zeros(&[8])).is_err());
    let kernel = RecurrentKernel::new(Cell::Lstm, &zeros(&[2, 8])).unwrap();
    let seq = sequence(Cell::Lstm);
    let run = |x: &[usize], given: Given<'_>| seq.forward(zeros(x), &kernel, given, false).map(|out| out.y);
    assert!(run(&[1, 3, 8], Given::default()).is_ok());
    assert!(run(&[1, 3, 7], Given::default()).is_err());
    assert!(run(&[1, 8], Given::default()).is_err());
    let state = zeros(&[2, 2]);
    assert!(run(&[1, 3, 8], Given { h: Some(&state), ..Given::default() }).is_err());
    assert!(run(&[1, 3, 8], Given { mask: Some(&state), ..Given::default() }).is_err());
    // Nothing to do is done.
    assert_eq!(run(&[0, 3, 8], Given::default()).unwrap().dims(), [0, 3, 2]);
    assert_eq!(run(&[2, 0, 8], Given { h: Some(&state), ..Given::default() }).unwrap().dims(), [2, 0, 2]);
}
