//! Weights: as files hold them, and as layers declare them.

use std::sync::Arc;

use tfjs_graph::Constant;
use tfjs_kernels::{DType, Tensor};

use crate::{Constraint, Dialect, Initializer, LayersError, Regularizer};

/// A weight as a file holds it; read when it is needed.
#[derive(Clone, Debug)]
pub struct StoredWeight {
    /// Its name in the file, without `:0`.
    pub name: String,
    /// Type, shape and value.
    pub value: Constant,
}

/// The weights of a file, in the order and under the names that the file's dialect has.
#[derive(Clone, Debug)]
pub enum StoredWeights {
    /// Legacy `.h5`: for each layer of the model its weights in Keras's order.
    ByLayer(Vec<(String, Vec<StoredWeight>)>),
    /// `.keras`, `.weights.h5` and SavedModels: paths of objects, such as `layers/dense/vars/0`.
    ByPath(Vec<StoredWeight>),
    /// TF.js manifests: names, such as `dense/kernel`.
    ByName(Vec<StoredWeight>),
}

/// Index of a weight in [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// A weight that a layer declared.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Names of the models and the layer that own it, outermost first: `["encoder", "dense"]`.
    pub layer: Vec<String>,
    /// Path of attributes from the layer to the variable, as Keras 3 and SavedModels store it: `cell/kernel`.
    pub object: String,
    /// Keras 2's variable name: `lstm/lstm_cell/kernel`.
    pub keras: String,
    /// TF.js's name: `lstm/kernel`.
    pub tfjs: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// How it starts when there is no file.
    pub initializer: Initializer,
    /// The penalty on it in training.
    pub regularizer: Option<Regularizer>,
    /// What it is held to after each step of training.
    pub constraint: Option<Constraint>,
    /// Whether the layer may train it; moving averages and states are not.
    pub trainable: bool,
    /// Whether its layer, or a model around it, is not to change: not even its moving averages do.
    pub frozen: bool,
    /// Its value, once known.
    pub value: Option<Constant>,
}

/// What a layer's configuration says of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightInit {
    /// How it starts.
    pub initializer: Initializer,
    /// The penalty on it in training.
    pub regularizer: Option<Regularizer>,
    /// What it is held to after each step of training.
    pub constraint: Option<Constraint>,
}

impl From<Initializer> for WeightInit {
    fn from(initializer: Initializer) -> WeightInit {
        WeightInit { initializer, regularizer: None, constraint: None }
    }
}

/// All weights of a model, in the order their layers declared them.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// By [`WeightId`].
    pub weights: Vec<Arc<Weight>>,
    /// Weights that files list a second time.
    pub(crate) listed: Vec<Listed>,
}

/// A weight that an object lists among its own variables too, though it belongs to another object.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: WeightId,
    /// Path of attributes from the layer to the object that lists it.
    pub(crate) object: String,
    /// Index of the weight that was declared next.
    pub(crate) before: usize,
}

impl Params {
    /// A weight.
    pub fn get(&self, id: WeightId) -> &Weight {
        &self.weights[id.0]
    }

    /// Gives weights without a value what their initializers say; computed when it is needed.
    pub(crate) fn initialize(&mut self) {
        for (i, weight) in self.weights.iter_mut().enumerate().filter(|(_, w)| w.value.is_none()) {
            let (initializer, shape, dtype) =
                (weight.initializer.clone(), weight.shape.clone(), weight.dtype);
            let load = move || Ok(initializer.tensor(&shape, dtype, i as u64 + 1)?);
            let value = Constant::deferred(dtype.to_proto(), weight.shape.as_slice(), load);
            Arc::make_mut(weight).value = Some(value);
        }
    }

    /// The value of a weight.
    pub(crate) fn value(&self, id: WeightId) -> Result<Tensor, LayersError> {
        let weight = self.get(id);
        match &weight.value {
            Some(value) => value
                .tensor()
                .map_err(|source| LayersError::WeightValue { weight: weight.keras.clone(), source }),
            None => Err(LayersError::MissingWeights { names: vec![weight.keras.clone()] }),
        }
    }

    /// Reads the weights that training may change; until then they may lie in files, and would be read in every step.
    pub(crate) fn load(&mut self) -> Result<(), LayersError> {
        for i in 0..self.weights.len() {
            let weight = &self.weights[i];
            if !weight.frozen && weight.value.as_ref().is_some_and(|v| !v.is_ready()) {
                let value = self.value(WeightId(i))?;
                self.put(WeightId(i), value);
            }
        }
        Ok(())
    }

    /// Takes a value out, to be changed in place; [`Params::put`] brings it back.
    pub(crate) fn take(&mut self, id: WeightId) -> Result<Tensor, LayersError> {
        let value = self.value(id)?;
        Arc::make_mut(&mut self.weights[id.0]).value = None;
        Ok(value)
    }

    /// A value of the shape that the weight has.
    pub(crate) fn put(&mut self, id: WeightId, value: Tensor) {
        let data_type = value.dtype().to_proto();
        Arc::make_mut(&mut self.weights[id.0]).value = Some(Constant::new(data_type, value));
    }

    /// Gives a weight its value.
    pub fn set(&mut self, id: WeightId, value: Constant) {
        let weight = Arc::make_mut(&mut self.weights[id.0]);
        weight.shape = value.shape().to_vec();
        weight.value = Some(value);
    }
}

/// Where a layer declares its weights.
#[derive(Debug)]
pub struct Scope<'a> {
    params: &'a mut Params,
    layer: Vec<String>,
    object: Vec<String>,
    keras: Vec<String>,
    tfjs: Vec<String>,
    trainable: bool,
    /// Whether the models around the layer are trained, whatever the layer says of itself.
    around: bool,
    /// Whose rules apply.
    pub dialect: Dialect,
}

impl<'a> Scope<'a> {
    /// The scope of a whole model.
    pub fn new(params: &'a mut Params, dialect: Dialect) -> Scope<'a> {
        Scope {
            params,
            layer: Vec::new(),
            object: Vec::new(),
            keras: Vec::new(),
            tfjs: Vec::new(),
            trainable: true,
            around: true,
            dialect,
        }
    }

    /// Declares a weight that is trained. `name` is the attribute's name and the variable's: `kernel`.
    pub fn weight(&mut self, name: &str, shape: &[usize], init: impl Into<WeightInit>) -> WeightId {
        self.declare(name, shape, DType::Float32, init, self.trainable)
    }

    /// Declares a weight that is not trained, such as `moving_mean`.
    pub fn state(&mut self, name: &str, shape: &[usize], init: impl Into<WeightInit>) -> WeightId {
        self.declare(name, shape, DType::Float32, init, false)
    }

    /// Declares a weight of any type.
    pub fn declare(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        init: impl Into<WeightInit>,
        trainable: bool,
    ) -> WeightId {
        let WeightInit { initializer, regularizer, constraint } = init.into();
        let join = |path: &[String]| {
            path.iter()
                .map(String::as_str)
                .chain([name])
                .filter(|s| !s.is_empty())
                .collect::<Vec<_>>()
                .join("/")
        };
        self.params.weights.push(Arc::new(Weight {
            layer: self.layer.clone(),
            object: join(&self.object),
            keras: join(&self.keras),
            tfjs: join(&self.tfjs),
            shape: shape.to_vec(),
            dtype,
            initializer,
            regularizer,
            constraint,
            trainable,
            frozen: !self.trainable,
            value: None,
        }));
        WeightId(self.params.weights.len() - 1)
    }

    /// Says that this object lists a weight of an object inside it as its own: Keras 3 numbers it among those declared
    /// here, and stores it twice.
    pub fn list(&mut self, id: WeightId) {
        let listed = Listed { id, object: self.object.join("/"), before: self.params.weights.len() };
        self.params.listed.push(listed);
    }

    /// Says that this object changes a weight even where it is not trained.
    pub(crate) fn hold(&mut self, id: WeightId) {
        Arc::make_mut(&mut self.params.weights[id.0]).frozen = false;
    }

    /// Gives a weight another last name in TF.js.
    pub fn rename_tfjs(&mut self, id: WeightId, name: &str) {
        let path: Vec<&str> = self.tfjs.iter().map(String::as_str).chain([name]).collect();
        Arc::make_mut(&mut self.params.weights[id.0]).tfjs = path.join("/");
    }

    /// Gives a weight a name of its own, whatever layer declares it.
    pub(crate) fn rename(&mut self, id: WeightId, name: &str) {
        let weight = Arc::make_mut(&mut self.params.weights[id.0]);
        name.clone_into(&mut weight.keras);
        name.clone_into(&mut weight.tfjs);
    }

    /// The scope of an object that belongs to the layer: a wrapped layer or a cell. `object` is the attribute that
    /// holds it (`cell`, `forward_layer`); `keras` and `tfjs` are what it adds to the names of variables, which may be
    /// nothing.
    pub fn enter<T>(
        &mut self,
        object: &str,
        keras: &str,
        tfjs: &str,
        f: impl FnOnce(&mut Scope<'_>) -> Result<T, LayersError>,
    ) -> Result<T, LayersError> {
        let push = |path: &[String], name: &str| {
            let mut path = path.to_vec();
            path.extend((!name.is_empty()).then(|| name.to_owned()));
            path
        };
        let mut inner = Scope {
            layer: self.layer.clone(),
            object: push(&self.object, object),
            keras: push(&self.keras, keras),
            tfjs: push(&self.tfjs, tfjs),
            trainable: self.trainable,
            around: self.around,
            dialect: self.dialect,
            params: self.params,
        };
        f(&mut inner)
    }

    /// As [`Scope::enter`], for a layer or cell with a configuration of its own, which says whether it is trained. In
    /// Keras 3 what the layer around it says of itself does not matter to it.
    pub(crate) fn enter_held<T>(
        &mut self,
        [object, keras, tfjs]: [&str; 3],
        trainable: bool,
        f: impl FnOnce(&mut Scope<'_>) -> Result<T, LayersError>,
    ) -> Result<T, LayersError> {
        self.enter(object, keras, tfjs, |s| {
            let outer = if s.dialect == Dialect::Keras3 { s.around } else { s.trainable };
            s.trainable = outer && trainable;
            f(s)
        })
    }

    /// The scope of a layer of a model. Names of variables start anew: nested models add nothing to them.
    pub(crate) fn enter_layer<T>(
        &mut self,
        name: &str,
        trainable: bool,
        f: impl FnOnce(&mut Scope<'_>) -> Result<T, LayersError>,
    ) -> Result<T, LayersError> {
        let mut layer = self.layer.clone();
        layer.push(name.to_owned());
        let mut inner = Scope {
            layer,
            // A model inside a wrapper (`TimeDistributed(model)`) keeps the wrapper's objects before its own.
            object: self.object.clone(),
            keras: vec![name.to_owned()],
            tfjs: vec![name.to_owned()],
            trainable: self.trainable && trainable,
            around: self.trainable,
            dialect: self.dialect,
            params: self.params,
        };
        f(&mut inner)
    }

    /// Number of weights declared so far in the whole model.
    pub(crate) fn count(&self) -> usize {
        self.params.weights.len()
    }

    pub(crate) fn params(&self) -> &Params {
        self.params
    }
}

impl Weight {
    /// Whether files may lack it.
    pub fn optional(&self) -> bool {
        // Matrices of low rank that fine-tuning adds are merged into the kernel when Keras saves it.
        let name = self.object.rsplit('/').next().unwrap_or_default();
        matches!(name, "count" | "idf_weights" | "seed_generator_state") || name.starts_with("lora_")
    }
}

/// `Conv2DTranspose` is `conv2d_transpose`, as Keras names layers and their groups in files.
pub(crate) fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|j| chars[j]);
        let after = chars.get(i + 1);
        let starts_word = c.is_uppercase()
            && before.is_some_and(|b| b.is_lowercase() || after.is_some_and(|a| a.is_lowercase()));
        if starts_word && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
