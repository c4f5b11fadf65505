use tfjs_graph::Constant;

/// A weight as a file holds it; read when it is needed.
#[derive(Clone, Debug)]
pub struct StoredWeight {
    /// Its name or path.
    pub name: String,
    /// Its value.
    pub value: Constant,
}

/// The weights of a file, in the order and under the names that the file's dialect has.
#[derive(Clone, Debug)]
pub enum StoredWeights {
    /// Legacy `.h5`: for each entry of `layer_names` the list in `weight_names` order (names with `:0` stripped).
    ByLayer(Vec<(String, Vec<StoredWeight>)>),
    /// `.keras`, `.weights.h5`, SavedModel object graphs: paths such as `layers/dense/vars/0`.
    ByPath(Vec<StoredWeight>),
    /// TF.js manifests: names such as `dense/kernel`.
    ByName(Vec<StoredWeight>),
}
