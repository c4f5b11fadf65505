//! Which ops stock TensorFlow.js can run, on which of its backends; `tfjs_kernels.txt` holds what its packages say.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::LazyLock,
};

use tfjs_kernels::DType;

/// A backend of TensorFlow.js.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// JavaScript.
    Cpu,
    /// TensorFlow's C library under node (`tfjs-node`).
    Node,
    /// WebAssembly.
    Wasm,
    /// Graphics cards, by textures.
    Webgl,
    /// Graphics cards, by compute shaders.
    Webgpu,
}

/// What keeps an op from running on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// TensorFlow.js's converter does not accept the op.
    NotListed,
    /// It is accepted, and then cannot be run.
    NoCode,
    /// The backend has no kernels of these names.
    Kernels(Vec<&'static str>),
    /// These kernels of the backend refuse complex numbers, or it has no such numbers.
    Complex(Vec<&'static str>),
}

impl Backend {
    /// All backends.
    pub const ALL: [Backend; 5] =
        [Backend::Cpu, Backend::Node, Backend::Wasm, Backend::Webgl, Backend::Webgpu];

    /// The name, as TensorFlow.js has it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Node => "node",
            Backend::Wasm => "wasm",
            Backend::Webgl => "webgl",
            Backend::Webgpu => "webgpu",
        }
    }

    /// What keeps an op with inputs of given types from running here; `None` when nothing does.
    pub fn obstacle(self, op: &str, complex: bool) -> Option<Obstacle> {
        if !super::in_tfjs(op) {
            return Some(Obstacle::NotListed);
        }
        let Some(kernels) = FACTS.ops.get(op) else { return Some(Obstacle::NoCode) };
        let find = |kernel: &str| FACTS.kernels.get(&(kernel, self)).copied();
        let missing: Vec<_> = kernels.iter().copied().filter(|k| find(k).is_none()).collect();
        if !missing.is_empty() {
            return Some(Obstacle::Kernels(missing));
        }
        if complex && find("Complex").is_none() {
            return Some(Obstacle::Complex(Vec::new()));
        }
        let refusing: Vec<_> = kernels.iter().copied().filter(|k| find(k) == Some(Takes::Real)).collect();
        (complex && !refusing.is_empty()).then_some(Obstacle::Complex(refusing))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(name: &str) -> Result<Backend, ()> {
        Backend::ALL.into_iter().find(|b| b.name() == name).ok_or(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Real,
    Everything,
}

#[derive(Default)]
struct Facts {
    kernels: HashMap<(&'static str, Backend), Takes>,
    ops: HashMap<&'static str, Vec<&'static str>>,
}

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let mut facts = Facts::default();
    for line in include_str!("tfjs_kernels.txt").lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("kernel"), Some(name)) => {
                for word in words {
                    let (backend, takes) = match word.strip_suffix('!') {
                        Some(backend) => (backend, Takes::Real),
                        None => (word, Takes::Everything),
                    };
                    facts.kernels.extend(backend.parse().ok().map(|b| ((name, b), takes)));
                }
            }
            (Some("op"), Some(name)) => {
                let kernels: Vec<_> = words.collect();
                if kernels != ["-"] {
                    facts.ops.insert(name, kernels);
                }
            }
            _ => {}
        }
    }
    facts
});

/// The version of TensorFlow.js that is described.
pub fn tfjs_version() -> &'static str {
    let first = include_str!("tfjs_kernels.txt").lines().next().unwrap_or_default();
    first.split([' ', ';']).nth(2).unwrap_or_default()
}

/// The types that the first input of an op may have when the plan runs it, as far as cases and trials show; `None` for an
/// op without such an input.
pub fn dtypes(op: &str) -> Option<&'static HashSet<DType>> {
    static TYPES: LazyLock<HashMap<&str, HashSet<DType>>> = LazyLock::new(|| {
        include_str!("dtypes.txt")
            .lines()
            .filter_map(|line| {
                let (op, types) = line.split_once(' ')?;
                Some((op, types.split(' ').filter_map(DType::from_name).collect()))
            })
            .collect()
    });
    TYPES.get(op)
}
