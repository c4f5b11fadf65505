//! The topology of TensorFlow.js layers models: which layers a `model.json` holds and how they are joined.
//!
//! ```
//! use tfjs_layers::Topology;
//!
//! let json = serde_json::json!({"class_name": "Sequential", "config": {"name": "s", "layers": [
//!     {"class_name": "Dense", "config": {"name": "d", "units": 3}}]}});
//! let topology = Topology::from_json(&json)?;
//! assert_eq!(topology.layers[0].class_name, "Dense");
//! # Ok::<(), tfjs_layers::LayersError>(())
//! ```
//!
//! Building, running and training the layers is not part of this crate yet.

mod topology;

pub use topology::{LayerInfo, LayersError, ModelKind, Topology};
