//! Words and numbers by their place in a vocabulary.

use serde_json::Value;
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor, TfString};

use super::{
    encode::{Mode, encode},
    hashing::{hash, salt},
};
use crate::{Call, Config, Dialect, Emit, Initializer, Layer, LayersError, Scope, Sym, WeightId};

type Result<T> = std::result::Result<T, LayersError>;

/// A vocabulary in a hash table. Indices count the mask token (of outputs in mode `int`), then out-of-vocabulary buckets,
/// then the tokens.
#[derive(Debug)]
pub(super) struct Lookup {
    strings: bool,
    invert: bool,
    mode: Mode,
    max_tokens: Option<usize>,
    pad_to_max_tokens: bool,
    num_oov: usize,
    mask_token: Option<Token>,
    oov_token: Option<Token>,
    /// Buckets of integers are hashes too, not remainders.
    hashed_integers: bool,
    salt: Option<[i64; 2]>,
    vocabulary: Option<Vec<Token>>,
    /// A file or address that the config names instead.
    elsewhere: Option<String>,
    declared_size: Option<usize>,
    idf: Option<Vec<f32>>,
    idf_weight: Option<WeightId>,
    /// Type of vectors.
    dtype: DType,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    Number(i32),
}

impl Token {
    fn of(value: &Value, strings: bool) -> Option<Token> {
        match value {
            Value::String(text) if strings => Some(Token::Text(text.clone())),
            // Numpy scalars and numbers written as text.
            Value::String(text) => Some(Token::Number(text.trim().parse().ok()?)),
            Value::Number(_) if strings => Some(Token::Text(value.to_string())),
            other => {
                let number = crate::number(other)?;
                (number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX))
                    .then_some(Token::Number(number as i32))
            }
        }
    }
}

fn tensor(tokens: Vec<Token>, strings: bool) -> Tensor {
    if strings {
        let text = |t: Token| match t {
            Token::Text(text) => TfString(text.into_bytes().into()),
            Token::Number(n) => TfString(n.to_string().into_bytes().into()),
        };
        return Tensor::vector(tokens.into_iter().map(text).collect());
    }
    let number = |t: Token| match t {
        Token::Number(n) => n,
        Token::Text(_) => 0,
    };
    Tensor::vector(tokens.into_iter().map(number).collect())
}

pub(super) fn string(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    Ok(Box::new(LookupLayer(Lookup::new(c, true, None)?)))
}

pub(super) fn integer(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    // The oldest files have `mask_value` and `oov_value`.
    Ok(Box::new(LookupLayer(Lookup::new(c, false, None)?)))
}

impl Lookup {
    /// From a layer's config. TextVectorization fixes the mask token.
    ///
    /// # Errors
    /// When options are wrong.
    pub(super) fn new(c: &Config<'_>, strings: bool, fixed_mask: Option<&str>) -> Result<Lookup> {
        c.known(&["sparse", "encoding", "vocabulary_dtype", "has_input_vocabulary", "has_static_table"]);
        let mode = Mode::of(c, "int")?;
        let token = |key: &str, default: Option<Token>| -> Result<Option<Token>> {
            match c.get(key) {
                None if c.has(key) => Ok(None),
                None => Ok(default),
                Some(value) => match Token::of(value, strings) {
                    Some(token) => Ok(Some(token)),
                    None => Err(c.wrong(key, if strings { "a string" } else { "an integer of 32 bits" })),
                },
            }
        };
        let mask_token = match fixed_mask {
            Some(text) => Some(Token::Text(text.to_owned())),
            None => token("mask_token", None)?,
        };
        let default_oov = if strings { Token::Text("[UNK]".to_owned()) } else { Token::Number(-1) };
        let mut elsewhere = None;
        let vocabulary = match c.get("vocabulary") {
            None => None,
            Some(Value::Array(items)) => {
                let tokens: Option<Vec<Token>> = items.iter().map(|v| Token::of(v, strings)).collect();
                let expected = if strings { "a list of strings" } else { "a list of integers of 32 bits" };
                Some(tokens.ok_or_else(|| c.wrong("vocabulary", expected))?)
            }
            Some(Value::String(path)) => {
                elsewhere = Some(path.clone());
                None
            }
            Some(_) => return Err(c.wrong("vocabulary", "a list")),
        };
        let max_tokens = c.opt_usize("max_tokens")?;
        let pad_to_max_tokens = c.bool_or("pad_to_max_tokens", false)?;
        if pad_to_max_tokens && max_tokens.is_none() {
            return Err(c.wrong("max_tokens", "given with `pad_to_max_tokens`"));
        }
        let invert = c.bool_or("invert", false)?;
        if invert && mode != Mode::Int {
            return Err(c.wrong("output_mode", "`int` with `invert`"));
        }
        let idf = c.opt_floats("idf_weights")?.map(|w| w.into_iter().map(|x| x as f32).collect());
        let hashed_integers = c.one_of("oov_method", &["floormod", "farmhash"], "floormod")? == "farmhash";
        // Keras 3 counts in integers.
        let dtype = if c.dialect == Dialect::Keras3 { DType::Int32 } else { DType::Float32 };
        Ok(Lookup {
            strings,
            invert,
            mode,
            max_tokens,
            pad_to_max_tokens,
            num_oov: crate::emit::table_size(&[c.usize_or("num_oov_indices", 1)?])?,
            mask_token,
            oov_token: token("oov_token", Some(default_oov))?,
            hashed_integers,
            salt: salt(c)?,
            vocabulary,
            elsewhere,
            declared_size: c.opt_usize("vocabulary_size")?,
            idf,
            idf_weight: None,
            dtype,
        })
    }

    /// Where its output is an index.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    fn oov_start(&self) -> usize {
        usize::from(self.mask_token.is_some() && self.mode == Mode::Int)
    }

    fn token_start(&self) -> usize {
        self.oov_start() + self.num_oov
    }

    /// Whether the vocabulary starts with the special tokens.
    fn has_special(&self, vocabulary: &[Token]) -> bool {
        let masks = std::iter::repeat_n(self.mask_token.as_ref(), self.oov_start());
        let oovs = std::iter::repeat_n(self.oov_token.as_ref(), self.num_oov);
        let special: Vec<Option<&Token>> = masks.chain(oovs).collect();
        vocabulary.len() >= special.len() && special.iter().zip(vocabulary).all(|(s, v)| *s == Some(v))
    }

    /// The vocabulary without special tokens.
    fn tokens(&self) -> Result<&[Token]> {
        let Some(vocabulary) = &self.vocabulary else {
            if self.elsewhere.is_none() && self.declared_size.is_none_or(|n| n <= self.token_start()) {
                return Ok(&[]);
            }
            return Err(LayersError::Config {
                key: "vocabulary".to_owned(),
                value: self.elsewhere.clone().unwrap_or_else(|| "null".to_owned()),
                expected: match &self.elsewhere {
                    Some(_) => "a list, or a file inside the archive: other files and addresses are never opened",
                    None => "a list, or a file inside the archive: the file does not hold the adapted vocabulary; save the model as `.keras`",
                }
                .to_owned(),
            });
        };
        Ok(if self.has_special(vocabulary) { &vocabulary[self.token_start()..] } else { vocabulary })
    }

    /// Length of output vectors.
    fn depth(&self) -> Result<usize> {
        match self.max_tokens {
            Some(max) if self.pad_to_max_tokens => Ok(max),
            _ => Ok(self.token_start() + self.tokens()?.len()),
        }
    }

    pub(super) fn build(&mut self, scope: &mut Scope<'_>) -> Result<()> {
        if self.mode == Mode::TfIdf {
            let depth = self.depth()?;
            self.idf_weight = Some(scope.state("idf_weights", &[depth], Initializer::zeros()));
        }
        Ok(())
    }

    /// A weight for each place of the output, from those in the config: Keras gives out-of-vocabulary buckets their mean.
    fn idf(&self, depth: usize) -> Result<Option<Vec<f32>>> {
        let Some(given) = &self.idf else { return Ok(None) };
        let special = self.vocabulary.as_ref().is_some_and(|v| self.has_special(v));
        let mut weights = Vec::with_capacity(depth);
        if !special {
            let mean = given.iter().map(|&w| f64::from(w)).sum::<f64>() / given.len().max(1) as f64;
            weights.resize(self.token_start(), mean as f32);
        }
        weights.extend(given);
        if weights.len() > depth || (weights.len() < depth && !self.pad_to_max_tokens) {
            let problem = format!("{} `idf_weights` for {depth} tokens", given.len());
            return Err(LayersError::Inputs(problem));
        }
        weights.resize(depth, 0.0);
        Ok(Some(weights))
    }

    /// The index of each token, or with `invert` the token of each index.
    ///
    /// # Errors
    /// When the vocabulary is not there.
    pub(super) fn indices(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let start = self.token_start() as i32;
        let mut tokens = self.tokens()?.to_vec();
        let mut indices: Vec<i32> = (start..).take(tokens.len()).collect();
        // The mask token is an entry like the others. In vectors it has no place: an index beyond them.
        if let Some(mask) = &self.mask_token {
            tokens.push(mask.clone());
            indices.push(if self.mode == Mode::Int { 0 } else { i32::MAX });
        }
        let words = tensor(tokens, self.strings);
        let numbers = Tensor::vector(indices);
        let shape = g.shape(x)?;
        if self.invert {
            let keys = g.cast(x, DType::Int32)?;
            let fallback = tensor(vec![self.oov_token.clone().unwrap_or(Token::Number(0))], self.strings);
            let fallback = g.constant(fallback.reshape(&[][..])?);
            let table = g.table(numbers, words)?;
            let dtype = if self.strings { DType::String } else { DType::Int32 };
            return find(g, table, keys, fallback, dtype, &shape);
        }
        let keys = if self.strings { x } else { g.cast(x, DType::Int32)? };
        if self.strings && g.dtype(x) != DType::String {
            return Err(LayersError::Inputs(format!("strings are needed, the input is {}", g.fact(x))));
        }
        let fallback = g.int(if self.num_oov == 1 { self.oov_start() as i32 } else { -1 });
        let table = g.table(words, numbers)?;
        let found = find(g, table, keys, fallback, DType::Int32, &shape)?;
        if self.num_oov < 2 {
            return Ok(found);
        }
        let mut bucket = if self.strings || self.hashed_integers {
            hash(g, keys, self.num_oov, self.salt)?
        } else {
            let count = g.int(self.num_oov as i32);
            g.op("FloorMod", &[keys, count], &[])?
        };
        if self.oov_start() > 0 {
            let one = g.int(1);
            bucket = g.add(bucket, one)?;
        }
        let missing = g.op("Equal", &[found, fallback], &[])?;
        g.select(missing, bucket, found)
    }

    /// Indices in the layer's output mode.
    ///
    /// # Errors
    /// When the rank does not fit.
    pub(super) fn encoded(&self, g: &mut Emit, indices: Port) -> Result<Port> {
        if self.mode == Mode::Int {
            return Ok(indices);
        }
        let depth = self.depth()?;
        if self.mode != Mode::TfIdf {
            return encode(g, indices, self.mode, depth, self.dtype, None);
        }
        let counts = encode(g, indices, Mode::Count, depth, DType::Float32, None)?;
        let weights = match (self.idf(depth)?, self.idf_weight) {
            (Some(weights), _) => g.floats(&weights),
            (None, Some(id)) => g.weight(id),
            (None, None) => crate::layers::core::built(None)?,
        };
        g.mul(counts, weights)
    }
}

fn find(
    g: &mut Emit,
    table: Port,
    keys: Port,
    fallback: Port,
    dtype: DType,
    shape: &[Option<usize>],
) -> Result<Port> {
    let found = g.op("LookupTableFindV2", &[table, keys, fallback], &[("Tout", attr::dtype(dtype))])?;
    g.set_shape(found, shape);
    Ok(found)
}

#[derive(Debug)]
struct LookupLayer(Lookup);

impl Layer for LookupLayer {
    fn build(&mut self, scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<()> {
        self.0.build(scope)
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let indices = self.0.indices(g, call.one()?.port)?;
        Ok(vec![self.0.encoded(g, indices)?.into()])
    }
}
