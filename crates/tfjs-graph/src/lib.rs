//! Runs TensorFlow.js graph models.
//!
//! ```text
//! GraphDef ──import──▶ Graph ──passes──▶ Graph ──plan──▶ Plan ──▶ run
//!  (names)             (ids)             (smaller)       (packed weights, order, lifetimes)
//! ```

mod attrs;
/// Writing graphs.
pub mod builder;
mod constant;
mod error;
mod exec;
mod export;
mod fact;
mod flow;
pub mod gradients;
mod graph;
mod import;
mod model;
/// What an op is, and what it gets.
pub mod op;
pub mod ops;
pub mod passes;
mod plan;
mod registry;
mod resources;
mod store;
/// What flows along edges.
pub mod value;
mod work;

pub use attrs::{AttrError, Attrs, partial_shape};
pub use constant::{Constant, LoadError, tensor_from_bytes};
pub use error::{GraphError, OpError, UnsupportedOp};
pub use fact::Fact;
pub use graph::{Consumers, Endpoint, Function, Graph, Node, NodeId, Port, Use};
pub use import::Constants;
pub use model::{Binding, GraphModel, ModelOptions, Outputs, TensorInfo};
pub use op::{Cx, Effect, Flow, Op, OpDef};
pub use plan::Plan;
pub use registry::{Registry, builtin, output_args};
pub use resources::Resources;
pub use store::{StoreError, WeightFile, write_group};
pub use tfjs_kernels::{DType, Shape, Tensor};
pub use value::Value;
